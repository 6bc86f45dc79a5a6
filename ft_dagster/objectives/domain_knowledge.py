"""Declares continual pre-training: the facts of raw text, where every token is trained."""

from ft_dagster.objectives.loss import next_token_loss
from ft_dagster.objectives.objective import Objective, Usual, chunked

DOMAIN_KNOWLEDGE = Objective(
    name="domain_knowledge",
    rows=("text",),
    examples=chunked,
    loss=next_token_loss,
    judged_by="questions",
    teaches="facts",
    epochs=Usual(1.0, "new knowledge from raw text: each document is read once"),
    lora_rank=Usual(64, "new knowledge: 64 or more"),
)
