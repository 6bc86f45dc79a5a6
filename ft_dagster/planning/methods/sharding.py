"""Decides how several processes share a training: copies, or ZeRO. Only what the trainer can shard is
counted.
"""

from __future__ import annotations

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import USABLE_SHARE
from ft_dagster.methods import METHODS, Method, method_of
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory_formula import Load, memory
from ft_dagster.planning.reasons import DECLARED, Default, Origin
from ft_dagster.spec import VariantSpec


def is_sharded(name: str) -> bool:
    """Say whether ZeRO-3 divides the weights of a method."""
    return 3 in method_of(name).zero_stages


def stage_of(spec: VariantSpec, load: Load) -> tuple[Default, Origin]:
    """Return the ZeRO stage with its reason and origin. Raises UserError for one that cannot be had."""
    declared, facts, known = spec.training.deepspeed, load.facts, method_of(load.method)
    _refuse(declared.stage, declared.offload, known)
    if facts.ranks == 1 and offload_of(spec, facts)[0].value == "none":
        alone = "one process: there is nothing to shard"
        if declared.stage in ("auto", 0):
            return Default(0, alone), "built-in"
        return Default(0, f"{declared.stage} is declared, but this host trains in {alone}"), "host"
    if declared.stage != "auto":
        return Default(declared.stage, "as declared"), DECLARED
    if offload_of(spec, facts)[0].value != "none":
        if 3 not in known.declared_zero_stages:
            return Default(2, "offload is a part of ZeRO, and the 4-bit base stays whole"), "built-in"
        return Default(3, "offload is a part of ZeRO"), "built-in"
    if not is_sharded(known.name):
        return Default(0, f"a copy on each process: {known.name} is not sharded here"), "built-in"
    if not known.freezes:
        return _of_full(load), "built-in"
    floor = memory(load, 0, "none").floor_bytes
    if facts.device_memory is None or floor <= facts.device_memory:
        return Default(0, "a copy on each process: the frozen base and the states fit a device"), "built-in"
    return Default(3, "the frozen base does not fit a device: sharded over all"), "built-in"


def _of_full(load: Load) -> Default:
    """Return on GPUs the least stage that fits by rule of thumb, before the dry run; on a CPU all share one
    memory.
    """
    ranks, device = load.facts.ranks, load.facts.device_memory
    if load.facts.device_kind == "cuda" and device is not None:
        stages = method_of(load.method).zero_stages
        floors = {stage: memory(load, stage, "none").floor_bytes for stage in stages}
        stage = next((stage for stage, floor in floors.items() if floor <= USABLE_SHARE * device), 3)
        said = {
            0: "a copy on each process: weights, gradients and states fit a device",
            2: f"gradients and states over {ranks} processes: with them a device holds the weights",
        }
        if stage in said:
            return Default(stage, said[stage])
    return Default(3, f"weights, gradients and states of full, over {ranks} processes")


def offload_of(spec: VariantSpec, facts: Facts) -> tuple[Default, Origin]:
    """Return where states go; a host without a GPU has no device to relieve."""
    declared = spec.training.deepspeed.offload
    if declared == "none":
        return Default("none", "states stay on the device"), "built-in"
    if facts.device_kind != "cuda":
        return Default("none", f"{declared} is declared, but this host has no GPU to relieve"), "host"
    return Default(declared, "as declared"), DECLARED


def _refuse(stage: str | int, offload: str, known: Method) -> None:
    name, may = known.name, known.declared_zero_stages
    if stage == 3 and 2 in may and 3 not in may:
        raise UserError(
            f"ZeRO-3 cannot divide the base of {name}: its 4-bit weights are loaded whole by each process",
            field="training.deepspeed.stage",
            value=stage,
            fix="Leave it out, declare 2 (which divides what is trained), or take lora",
        )
    if len(may) == 1 and (stage in (2, 3) or offload != "none"):
        field, value = ("stage", stage) if stage in (2, 3) else ("offload", offload)
        raise UserError(
            f"{name} trains over several processes as copies only",
            field=f"training.deepspeed.{field}",
            value=value,
            fix=f"Leave it out, or take one of {', '.join(filter(is_sharded, METHODS))}",
        )
    if stage == 0 and offload != "none":
        raise UserError(
            "offload is a part of ZeRO, and stage 0 is without it",
            field="training.deepspeed.offload",
            value=offload,
            fix="Set training.deepspeed.stage to 2 or 3, or leave it to the plan",
        )
