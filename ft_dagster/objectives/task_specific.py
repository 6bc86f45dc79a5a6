"""Declares one narrow task, its answers scored by what they are: a label, JSON, a query."""

from ft_dagster.objectives.loss import next_token_loss
from ft_dagster.objectives.objective import Objective, one_each

TASK_SPECIFIC = Objective(
    name="task_specific",
    rows=("messages", "prompt_completion", "text"),
    examples=one_each,
    loss=next_token_loss,
    judged_by="score",
    teaches="behaviour",
    narrow=True,
)
