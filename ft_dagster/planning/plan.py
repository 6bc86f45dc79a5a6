"""The plan: the resolved method and hyperparameters, what they occupy, and the reason for each value."""

from __future__ import annotations

from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.planning.advice import training_warnings
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory import Load, memory, storage
from ft_dagster.planning.method import resolve_method
from ft_dagster.planning.reasons import Reasons
from ft_dagster.planning.settings import precision_of, resolve_training, steps_of
from ft_dagster.planning.shapes import trainable_parameters
from ft_dagster.spec import VariantSpec

SCHEMA_VERSION = 1


def make_plan(spec: VariantSpec, facts: Facts) -> dict[str, Any]:
    """Resolve `spec` into plan.json. Raises UserError for what cannot be trained."""
    if facts.trained_tokens == 0:
        raise UserError("the mixture has no trained token", fix="See the counts of training_mixture")
    reasons = Reasons()
    precision = precision_of(spec, facts)
    method = resolve_method(spec, facts, precision, reasons)
    trained = trainable_parameters(method, facts, len(spec.base_model.new_tokens))
    load = Load(method["name"], trained, precision, facts)
    training = resolve_training(spec, load, reasons)
    stage, offload = training["deepspeed"]["stage"], training["deepspeed"]["offload"]
    needed = memory(load, stage, offload)
    return {
        "schema_version": SCHEMA_VERSION,
        "method": method,
        "training": training,
        "device": {"kind": facts.device_kind, "count": facts.ranks if facts.device_kind == "cuda" else 1},
        "ranks": facts.ranks,
        "steps": steps_of(training, facts),
        "memory": needed,
        "storage": storage(load, stage, training),
        "fits": needed["fits"],
        "warnings": training_warnings(spec, facts, method, training),
        "reasons": reasons.rows,
    }
