"""How a variant is taught: the method's name and that method's own settings."""

from __future__ import annotations

from typing import Any

from ft_dagster.planning import defaults
from ft_dagster.planning.defaults import Default
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory import Load, memory
from ft_dagster.planning.reasons import Reasons
from ft_dagster.planning.shapes import smallest_dimension
from ft_dagster.planning.sharding import offload_of, stage_of
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.variant import LORA_SETTINGS


def resolve_method(spec: VariantSpec, facts: Facts, precision: str, reasons: Reasons) -> dict[str, Any]:
    """What the trainer's `method_of` takes. Raises UserError for layers that the base has not."""
    declared = spec.method
    if declared.name == "auto":
        name = reasons.settle("method.name", None, _choose(spec, facts, precision))
    else:
        name = reasons.settle("method.name", declared.name, Default(None, ""))
    if name == "full":
        return {"name": name}
    if name in defaults.SOFT_PROMPTS:
        tokens = reasons.settle(
            "method.num_virtual_tokens", declared.num_virtual_tokens, defaults.VIRTUAL_TOKENS
        )
        return {"name": name, "num_virtual_tokens": tokens}
    targets = reasons.settle("method.target_modules", declared.target_modules, defaults.TARGET_MODULES)
    most = smallest_dimension(facts.linear_shapes, targets)
    by_data = defaults.lora_rank(name, facts.examples, spec.objective, most)
    rank = reasons.settle("method.rank", declared.rank, by_data)
    return {
        "name": name,
        "rank": rank,
        "alpha": float(reasons.settle("method.alpha", declared.alpha, defaults.alpha(rank))),
        "dropout": reasons.settle("method.dropout", declared.dropout, defaults.DROPOUT),
        "target_modules": targets,
        "use_rslora": reasons.settle("method.use_rslora", declared.use_rslora or None, defaults.RSLORA),
        "use_dora": reasons.settle("method.use_dora", declared.use_dora or None, defaults.DORA),
    }


def _choose(spec: VariantSpec, facts: Facts, precision: str) -> Default:
    """What `auto` means: by the settings given, then by the objective, then by what fits."""
    values = {name: getattr(spec.method, name) for name in LORA_SETTINGS}
    given = [name for name, value in values.items() if value is not None and value is not False]
    if given:
        return Default("lora", f"{', '.join(given)} declared: settings of LoRA")
    if spec.objective != "domain_knowledge":
        return Default(
            "lora", f"{spec.objective}: an adapter learns behaviour, at a fraction of full's memory"
        )
    load = Load("full", facts.parameters, precision, facts)
    full = memory(load, stage_of(spec, load)[0].value, offload_of(spec, facts)[0].value)
    needed = f"{full['floor_bytes'] / 1e9:,.1f} GB at least in each process"
    if full["fits"]:
        return Default("full", f"domain_knowledge: facts need all weights; {needed}")
    device = f"{full['device_bytes'] / 1e9:,.1f} GB"
    return Default("lora", f"domain_knowledge asks for full, which needs {needed} of a device of {device}")
