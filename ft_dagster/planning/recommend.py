"""Recommends a method to a team that has no declaration yet: a few figures in, the ranking of all methods
out.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS, usual_method
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
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.survey import Say, Survey, survey
from ft_dagster.training.batches.apart import leak_of

MAX_LENGTH = 1024
MOST_GENERAL = 0.5  # as a declaration may have
TOKEN = "<new-{}>"


@dataclass(frozen=True)
class RecommendationRequest:
    """Asks for a recommendation. `model`: a config.json, a folder with one, or a shipped name; else `params`,
    a size. None: not said. `general_share`: of general data mixed in; 0: general ability need not be kept.
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
def recommend_method(
    request: RecommendationRequest, hardware: Hardware, say: Say = lambda line: None
) -> Survey:
    """Survey all methods as asked. `say`: see `survey`. Raises UserError for what has no answer, before
    anything is counted where that can be seen.
    """
    _check(request)
    with tempfile.TemporaryDirectory() as scratch:
        if request.model is not None:
            file = architecture_file(request.model)
        else:
            assert request.params is not None
            file = of_size(request.params, Path(scratch))
        given = facts(
            shapes_of_configuration(file),
            examples=request.examples,
            tokens=round(request.examples * request.tokens_per_example),
            max_length=request.max_length,
            general_share=request.general_share,
            device_kind="cuda" if hardware.kind == "gpu" else "cpu",
            ranks=hardware.count,
            device_memory=hardware.memory_bytes,
            bf16=hardware.bf16,
            leak=None if request.model is None else leak_of(file, None),
        )
        context = PlanContext(
            file,
            hardware,
            variants=request.variants,
            new_token_ids=tuple(range(request.new_tokens)),
            budget_usd=request.budget_usd,
            deadline_hours=request.deadline_hours,
            serving=request.serving,
        )
        return survey(declaration(_declared(request), request.general_share), given, context, say)


def _declared(request: RecommendationRequest) -> dict[str, Any]:
    training = {"max_length": request.max_length}
    if request.micro_batch is not None:
        training["per_device_train_batch_size"] = request.micro_batch
    tokens = [TOKEN.format(number) for number in range(request.new_tokens)]
    return {
        "objective": request.objective,
        "method": request.method or "auto",
        "base_model": {"source": "model", "new_tokens": tokens},
        "training": training,
        "export": METHODS[request.method].exports[0] if request.method else "adapter",
    }


def _check(request: RecommendationRequest) -> None:
    if (request.model is None) == (request.params is None):
        raise UserError(
            "name one model",
            field="--model",
            value=request.model,
            fix=f"Give --params 13e9, or --model: a config.json, its folder, or {', '.join(shipped())}",
        )
    for field, given, known in (
        ("--method", request.method or usual_method().name, tuple(METHODS)),
        ("--objective", request.objective, tuple(OBJECTIVES)),
    ):
        if given not in known:
            raise UserError("is not known", field=field, value=given, fix=f"Take one of {', '.join(known)}")
    for field, value in (
        ("--examples", request.examples),
        ("--tokens-per-example", request.tokens_per_example),
        ("--variants", request.variants),
        ("--budget", request.budget_usd),
        ("--deadline", request.deadline_hours),
    ):
        if value is not None and not value > 0:
            raise UserError("must be above 0", field=field, value=value, fix="Give more, or leave it out")
    if not 0 <= request.general_share <= MOST_GENERAL:
        raise UserError(
            f"is not within 0 to {MOST_GENERAL}",
            field="--general-share",
            value=request.general_share,
            fix="0.05 to 0.1 is usual; 0 where general ability need not be kept",
        )
    if request.max_length < 16:
        raise UserError(
            "is too short", field="--max-length", value=request.max_length, fix="Give at least 16"
        )
