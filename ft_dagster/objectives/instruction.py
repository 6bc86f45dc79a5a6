"""Declares instruction tuning: behaviour and format, from the answers of conversations and prompts, or whole
texts.
"""

from ft_dagster.objectives.loss import next_token_loss
from ft_dagster.objectives.objective import Objective, one_each

INSTRUCTION = Objective(
    name="instruction",
    rows=("messages", "prompt_completion", "text"),
    examples=one_each,
    loss=next_token_loss,
    judged_by="loss",
    teaches="behaviour",
)
