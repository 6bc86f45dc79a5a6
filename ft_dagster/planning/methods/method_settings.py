"""Resolves how a variant is taught: the method's name and that method's own settings."""

from __future__ import annotations

from typing import Any, TypeAlias

from ft_dagster.errors import UserError
from ft_dagster.methods import method_of
from ft_dagster.methods.base_facts import Tensors
from ft_dagster.methods.layers import ALL, narrowest_layer, updated
from ft_dagster.methods.method import Method
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.training_settings import precision_of
from ft_dagster.planning.reasons import AS_DECLARED, DECLARED, Default, Reasons
from ft_dagster.spec import VariantSpec
from ft_dagster.training.contract import method_settings

LAYERS, TENSORS = "target_modules", "target_parameters"
NAMED = 3
Settled: TypeAlias = dict[str, Any]  # the settings of a method so far, by name
IN_BF16 = (
    "no field of a declaration: embeddings, norms and head of a 4-bit base lie in bf16, as those of lora do; "
    "in fp32, as in plans from before, half as much again would be kept for the backward pass"
)


def resolve_method(spec: VariantSpec, facts: Facts, reasons: Reasons) -> MethodSettings:
    """Resolve the settings of a declaration that names its method, as the trainer takes them. Raises
    UserError for layers that the base has not.
    """
    known = method_of(reasons.settle("method.name", spec.method.name, Default(None, "")))
    settled: Settled = {"name": known.name}
    given = spec.method.given
    for field in sorted(known.declared, key=lambda name: name != LAYERS):  # by which the rank is chosen
        usual = known.defaults[field] or _rank(spec, facts, settled)
        if field in known.settings.unsaid and field not in given:
            settled[field] = usual[0]  # which a plan leaves out
            continue
        settled[field] = reasons.settle(f"method.{field}", given.get(field), Default(*usual))
        if field == LAYERS and TENSORS in known.settings.model_fields and facts.tensors.shapes:
            _settle_tensors(settled, known, facts, reasons)
    _refuse_beside_tensors(settled)
    if "activations" in known.settings.model_fields and precision_of(spec, facts) == "bf16":
        settled["activations"] = reasons.put("method.activations", "bf16", "built-in", IN_BF16)
    return method_settings(settled)


def _rank(spec: VariantSpec, facts: Facts, settled: Settled) -> Default:
    shapes = updated(facts, settled[LAYERS], settled.get(TENSORS))
    most, narrowest = narrowest_layer(shapes, ALL)
    return defaults.lora_rank(settled["name"], facts.examples, spec.objective, most, narrowest)


def _settle_tensors(settled: Settled, known: Method, facts: Facts, reasons: Reasons) -> None:
    """Part what is to be updated into layers and tensors: all of them but gates, or those that are named.
    Raises UserError for a layer that is updated as a tensor, and cannot be where it is quantized.
    """
    there, targets = facts.tensors, settled[LAYERS]
    as_tensors = there.layers(facts.linear_shapes)
    if targets == ALL:
        found = [*there.experts, *(name for names in as_tensors.values() for name in names)]
        found = there.experts if known.quantization else sorted(found)
        settled[TENSORS] = reasons.put(
            f"method.{TENSORS}", found, "built-in", _of_all(there, known, as_tensors)
        )
        return
    packed = next((name for name in targets if name in as_tensors and known.quantization), None)
    if packed is not None:
        raise UserError(
            "PEFT takes these layers of the base for experts, and updates them as tensors, which "
            f"{known.name} has packed",
            field=f"method.{LAYERS}",
            value=packed,
            fix=f"Leave {packed} out, or take method: lora",
        )
    named = {target: _tensors_named(target, facts) for target in targets}
    _refuse_unknown(named, facts)
    found = sorted({name for names in named.values() for name in names})
    if found:
        settled[LAYERS] = [target for target in targets if not named[target]]
        settled[TENSORS] = reasons.put(f"method.{TENSORS}", found, DECLARED, AS_DECLARED)


def _refuse_unknown(named: dict[str, list[str]], facts: Facts) -> None:
    """Raises UserError for a name of `target_modules` that stands for no layer and no tensor of the base."""
    unknown = next(
        (name for name, found in named.items() if not (found or name in facts.linear_shapes)), None
    )
    if unknown is not None:
        known = {
            *facts.linear_shapes,
            *facts.tensors.shapes,
            *(("experts",) if facts.tensors.experts else ()),
        }
        raise UserError(
            "the base model has no such layer, tensor of experts, or router",
            field=f"method.{LAYERS}",
            value=unknown,
            fix=f"It has: {', '.join(sorted(known))}",
        )


def _tensors_named(target: str, facts: Facts) -> list[str]:
    """Return the tensors that a name stands for; none where it is that of layers that are updated as such."""
    there, as_tensors = facts.tensors, facts.tensors.layers(facts.linear_shapes)
    if target in as_tensors:
        return as_tensors[target]
    if target in facts.linear_shapes:
        return []
    ends = (target, f"{target}.weight")
    whole = [name for name in there.shapes if name in ends or name.endswith(tuple(f".{end}" for end in ends))]
    return whole or [name for name in there.experts if name.startswith(f"{target}.")]


def _of_all(there: Tensors, known: Method, as_tensors: dict[str, list[str]]) -> str:
    """Say why these tensors get an update where all linear layers do, and what is left alone."""
    said = "the experts are linear layers too, in one tensor"
    if as_tensors:
        verb = (
            "are left as they are, since they are packed" if known.quantization else "are updated as tensors"
        )
        said += f"; PEFT takes {', '.join(sorted(as_tensors))} for experts: these {verb}"
    gates = ", ".join(gate.removesuffix(".weight") for gate in there.gates)
    return f"{said}; {gates} stay as they are unless method.{LAYERS} names them" if gates else said


def _refuse_beside_tensors(settled: Settled) -> None:
    """Raises UserError for a setting that PEFT does not have for tensors."""
    if not settled.get(TENSORS):
        return
    for field, plain in (("dropout", 0.0), ("use_dora", False), ("init_lora_weights", "default")):
        if settled.get(field, plain) != plain:
            raise UserError(
                f"PEFT has it for layers alone, and {', '.join(settled[TENSORS][:NAMED])} are tensors",
                field=f"method.{field}",
                value=settled[field],
                fix=f"Leave it out, or name in method.{LAYERS} layers beside the experts",
            )
