"""How a variant is taught: the method's name and that method's own settings."""

from __future__ import annotations

from ft_dagster.planning.facts import Facts
from ft_dagster.planning.load import SOFT_PROMPTS
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.training_settings import precision_of
from ft_dagster.planning.reasons import Default, Reasons
from ft_dagster.planning.shapes import narrowest_layer
from ft_dagster.spec import VariantSpec
from ft_dagster.training.contract import MethodSettings, method_settings

IN_BF16 = (
    "no field of a declaration: embeddings, norms and head of a 4-bit base lie in bf16, as those of lora do; "
    "in fp32, as in plans from before, half as much again would be kept for the backward pass"
)


def resolve_method(spec: VariantSpec, facts: Facts, reasons: Reasons) -> MethodSettings:
    """Of a declaration that names its method, as the trainer takes it. Raises UserError for layers that the
    base has not.
    """
    declared = spec.method
    name = reasons.settle("method.name", declared.name, Default(None, ""))
    if name == "full":
        return method_settings({"name": name})
    if name in SOFT_PROMPTS:
        tokens = reasons.settle(
            "method.num_virtual_tokens", declared.num_virtual_tokens, defaults.VIRTUAL_TOKENS
        )
        return method_settings({"name": name, "num_virtual_tokens": tokens})
    targets = reasons.settle("method.target_modules", declared.target_modules, defaults.TARGET_MODULES)
    most, narrowest = narrowest_layer(facts.linear_shapes, targets)
    by_data = defaults.lora_rank(name, facts.examples, spec.objective, most, narrowest)
    settled = {
        "name": name,
        "rank": reasons.settle("method.rank", declared.rank, by_data),
        "alpha": float(reasons.settle("method.alpha", declared.alpha, defaults.ALPHA)),
        "dropout": reasons.settle("method.dropout", declared.dropout, defaults.DROPOUT),
        "target_modules": targets,
        "use_rslora": reasons.settle("method.use_rslora", declared.use_rslora or None, defaults.RSLORA),
        "use_dora": reasons.settle("method.use_dora", declared.use_dora or None, defaults.DORA),
    }
    if name == "qlora" and precision_of(spec, facts) == "bf16":
        settled["activations"] = reasons.put("method.activations", "bf16", "built-in", IN_BF16)
    return method_settings(settled)
