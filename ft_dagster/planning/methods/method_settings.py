"""Resolves how a variant is taught: the method's name and that method's own settings."""

from __future__ import annotations

from typing import Any

from ft_dagster.methods import method_of
from ft_dagster.methods.layers import Targets, narrowest_layer
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.training_settings import precision_of
from ft_dagster.planning.reasons import Default, Reasons
from ft_dagster.spec import VariantSpec
from ft_dagster.training.contract import method_settings

LAYERS = "target_modules"
IN_BF16 = (
    "no field of a declaration: embeddings, norms and head of a 4-bit base lie in bf16, as those of lora do; "
    "in fp32, as in plans from before, half as much again would be kept for the backward pass"
)


def resolve_method(spec: VariantSpec, facts: Facts, reasons: Reasons) -> MethodSettings:
    """Resolve the settings of a declaration that names its method, as the trainer takes them. Raises
    UserError for layers that the base has not.
    """
    known = method_of(reasons.settle("method.name", spec.method.name, Default(None, "")))
    settled: dict[str, Any] = {"name": known.name}
    given = spec.method.given
    for field in sorted(known.declared, key=lambda name: name != LAYERS):  # by which the rank is chosen
        usual = known.defaults[field] or _rank(known.name, spec, facts, settled[LAYERS])
        settled[field] = reasons.settle(f"method.{field}", given.get(field), Default(*usual))
    if "activations" in known.settings.model_fields and precision_of(spec, facts) == "bf16":
        settled["activations"] = reasons.put("method.activations", "bf16", "built-in", IN_BF16)
    return method_settings(settled)


def _rank(name: str, spec: VariantSpec, facts: Facts, targets: Targets) -> Default:
    most, narrowest = narrowest_layer(facts.linear_shapes, targets)
    return defaults.lora_rank(name, facts.examples, spec.objective, most, narrowest)
