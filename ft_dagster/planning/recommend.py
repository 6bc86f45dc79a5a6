"""Which method, for a team that has no declaration yet: a few figures in, the ranking of all methods out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.objectives import DEFAULT, OBJECTIVES
from ft_dagster.planning.collector import uncollected
from ft_dagster.planning.cost.serving import Manner
from ft_dagster.planning.dryrun.architecture import architecture_file, shipped
from ft_dagster.planning.dryrun.from_figures import (
    GENERAL_SHARE,
    TOKENS_PER_EXAMPLE,
    declaration,
    facts,
    of_size,
    shapes_of_configuration,
)
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.methods.question import METHODS
from ft_dagster.planning.survey import PlanContext, Survey, survey

MAX_LENGTH = 1024
MOST_GENERAL = 0.5  # as a declaration may have
TOKEN = "<new-{}>"


@dataclass(frozen=True)
class Asked:
    """`model`: a config.json, a folder with one, or a shipped name; else `params`, a size. None: not said.

    `general_share`: of general data mixed in; 0: general ability need not be kept.
    """

    examples: int
    model: str | None = None
    params: float | None = None
    tokens_per_example: float = TOKENS_PER_EXAMPLE
    max_length: int = MAX_LENGTH
    micro_batch: int | None = None
    objective: str = DEFAULT
    method: str | None = None
    variants: int = 1
    new_tokens: int = 0
    budget_usd: float | None = None
    deadline_hours: float | None = None
    serving: Manner | None = None
    general_share: float = GENERAL_SHARE


@uncollected()
def recommend(asked: Asked, hardware: Hardware) -> Survey:
    """Raises UserError for what has no answer, before anything is counted where that can be seen."""
    _check(asked)
    with tempfile.TemporaryDirectory() as scratch:
        if asked.model is not None:
            file = architecture_file(asked.model)
        else:
            assert asked.params is not None
            file = of_size(asked.params, Path(scratch))
        given = facts(
            shapes_of_configuration(file),
            examples=asked.examples,
            tokens=round(asked.examples * asked.tokens_per_example),
            max_length=asked.max_length,
            general_share=asked.general_share,
            device_kind="cuda" if hardware.kind == "gpu" else "cpu",
            ranks=hardware.count,
            device_memory=hardware.memory_bytes,
            bf16=hardware.bf16,
        )
        context = PlanContext(
            file,
            hardware,
            variants=asked.variants,
            new_token_ids=tuple(range(asked.new_tokens)),
            budget_usd=asked.budget_usd,
            deadline_hours=asked.deadline_hours,
            serving=asked.serving,
        )
        return survey(declaration(_declared(asked), asked.general_share), given, context)


def _declared(asked: Asked) -> dict[str, Any]:
    training = {"max_length": asked.max_length}
    if asked.micro_batch is not None:
        training["per_device_train_batch_size"] = asked.micro_batch
    tokens = [TOKEN.format(number) for number in range(asked.new_tokens)]
    return {
        "objective": asked.objective,
        "method": asked.method or "auto",
        "base_model": {"source": "model", "new_tokens": tokens},
        "training": training,
        "export": "merged" if asked.method == "full" else "adapter",
    }


def _check(asked: Asked) -> None:
    if (asked.model is None) == (asked.params is None):
        raise UserError(
            "name one model",
            field="--model",
            value=asked.model,
            fix=f"Give --params 13e9, or --model: a config.json, its folder, or {', '.join(shipped())}",
        )
    for field, given, known in (
        ("--method", asked.method or METHODS[0], METHODS),
        ("--objective", asked.objective, tuple(OBJECTIVES)),
    ):
        if given not in known:
            raise UserError("is not known", field=field, value=given, fix=f"Take one of {', '.join(known)}")
    for field, value in (
        ("--examples", asked.examples),
        ("--tokens-per-example", asked.tokens_per_example),
        ("--variants", asked.variants),
        ("--budget", asked.budget_usd),
        ("--deadline", asked.deadline_hours),
    ):
        if value is not None and not value > 0:
            raise UserError("must be above 0", field=field, value=value, fix="Give more, or leave it out")
    if not 0 <= asked.general_share <= MOST_GENERAL:
        raise UserError(
            f"is not within 0 to {MOST_GENERAL}",
            field="--general-share",
            value=asked.general_share,
            fix="0.05 to 0.1 is usual; 0 where general ability need not be kept",
        )
    if asked.max_length < 16:
        raise UserError("is too short", field="--max-length", value=asked.max_length, fix="Give at least 16")
