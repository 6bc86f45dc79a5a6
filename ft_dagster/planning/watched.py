"""Foresees what the least takes that is measured while a model trains: so many examples, whatever the budget
is.
"""

from __future__ import annotations

from ft_dagster.data.rendering.general import HELD_OUT_TOKENS
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.planned_method import PlannedMethod
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.watch.budget import ENDS, FEWEST, forward_share


def least_tokens(spec: VariantSpec, facts: Facts, training: TrainingSettings) -> tuple[float, float]:
    """Return the tokens of one look at the fewest validation examples, and at the fewest general texts, at
    most.
    """
    texts = 0 if spec.data.general is None else FEWEST
    rows = min(FEWEST, facts.validation) * facts.tokens / max(1, facts.examples)
    return rows, texts * min(HELD_OUT_TOKENS, training.max_length)


def step_tokens(facts: Facts, training: TrainingSettings) -> float:
    """Return the tokens of one optimizer step."""
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps * facts.ranks
    return rows * (training.max_length if training.packing else facts.tokens / facts.examples)


def above_budget(spec: VariantSpec, facts: Facts, chosen: PlannedMethod, steps: int) -> str | None:
    """Say that the least may take more than the budget of measuring; None where it does not, or there is
    none.
    """
    training = chosen.resolved.training
    watch = training.watch
    if watch.budget is None:
        return None
    rows, texts = least_tokens(spec, facts, training)
    looks = (training.evaluations or 1) + 1
    general = looks if watch.general_loss_limit is not None else ENDS
    checkpointing = training.gradient_checkpointing
    forward = forward_share(chosen.resolved.method, gradient_checkpointing=checkpointing)
    spent = forward * (looks * rows + general * texts) / (steps * step_tokens(facts, training))
    if spent <= watch.budget:
        return None
    asked = f", and {watch.questions} questions of each benchmark" if watch.questions else ""
    return (
        f"measuring takes up to {spent:.0%} of the training's FLOPs, above training.watch.budget of "
        f"{watch.budget:.0%}: in {steps:,} steps the fewest examples that say something are as many, "
        f"{FEWEST} at each of {looks} looks{asked}. Train longer, declare fewer training.evaluations, or a "
        "larger budget"
    )
