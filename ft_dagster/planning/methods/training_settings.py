"""Resolves the training settings of a plan, in transformers' own names."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS, method_of
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory_formula import Load
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.sharding import offload_of, stage_of
from ft_dagster.planning.reasons import AS_DECLARED, DECLARED, Default, Origin, Reasons
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.training import DeepspeedSpec, TrainingSettings, TrainingSpec
from ft_dagster.training.contract import checked

BUDGETED = (
    "of the training's FLOPs, for all that is measured while it trains: losses on a sample, which the "
    "training names, general text and answers before and after it"
)

EVALUATIONS = "8, one every 12.5% of training, or 4, 2 or 1 where the budget of measuring pays for no more"
FIXED_ORDER = (
    "kernels add in a fixed order, so that a training that was interrupted equals one that was not, bit for "
    "bit; attention's backward pass takes longer for it"
)
TOO_HIGH = "where the first steps lift the loss a tenth above the base's, beyond the noise of batches"
ON_BAD_RATE = {
    "lower": f"{TOO_HIGH}, it begins again at a third of the rate, once",
    "warn": f"{TOO_HIGH}, it says so and goes on",
}
WITHOUT_TF32 = (
    f"{AS_DECLARED}; products are not rounded to TF32, which cannot tell positions above 2048 apart"
)

FEW_STEPS = 50  # of the optimizer


def precision_of(spec: VariantSpec, facts: Facts) -> str:
    """Return "bf16" or "fp32": what is declared, else what the hardware computes in."""
    if spec.training.precision != "auto":
        return spec.training.precision
    return "bf16" if facts.bf16 else "fp32"


def resolve_training(spec: VariantSpec, load: Load, reasons: Reasons) -> TrainingSettings:
    """Resolve the settings as the trainer takes them; `report_to` acts on no weight and is no part of it.
    Raises UserError.
    """
    declared, facts, name = spec.training, load.facts, load.method

    def settle(field: str, default: Default) -> Any:
        return reasons.settle(f"training.{field}", getattr(declared, field), default)

    rate = defaults.learning_rate(name, facts.hidden_size, spec.objective)
    packing = _packing(declared, name, facts, reasons)
    learning_rate = settle("learning_rate", Default(rate.value, rate.reason))
    epochs = float(settle("num_train_epochs", defaults.epochs(name, spec.objective, rows_of(packing, facts))))
    micro = settle("per_device_train_batch_size", defaults.MICRO_BATCH[packing])
    settled = {
        "learning_rate": learning_rate,
        "num_train_epochs": epochs,
        "max_steps": settle("max_steps", Default(None, "num_train_epochs decides")),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settle(
            "gradient_accumulation_steps", _accumulation(name, packing, micro, epochs, facts)
        ),
        "max_length": settle("max_length", Default(facts.max_length, defaults.MAX_LENGTH.reason)),
        "packing": packing,
        "share_beginnings": _share_beginnings(declared, facts, reasons),
        "gradient_checkpointing": _checkpointing(declared, load, reasons),
        "precision": _precision(spec, facts, reasons),
        "deterministic": _deterministic(declared, facts, reasons),
        "deepspeed": _deepspeed(spec, load, reasons),
        "watch": _watch(declared, reasons),
        "evaluations": settle("evaluations", Default(None, EVALUATIONS)),
        "on_bad_rate": _on_bad_rate(declared, reasons),
    }
    others = (name for name in TrainingSettings.model_fields if name not in settled)
    settled |= {name: _standing(name, declared, reasons) for name in others}
    training = checked(TrainingSettings, settled, "training", fix="Declare another value")
    _say_the_rates_batch(name, training, facts, reasons)
    return training


def _say_the_rates_batch(name: str, training: TrainingSettings, facts: Facts, reasons: Reasons) -> None:
    """Say for which steps the usual rate is, for a large base that is trained whole on GPUs."""
    known = reasons.of("training.learning_rate")
    large = facts.device_kind == "cuda" and facts.parameters >= defaults.LARGE
    if method_of(name).freezes or not large or known.origin != "built-in":
        return
    tokens = rows_a_step(training, facts) * training.max_length
    said = defaults.rate_at(training.learning_rate, tokens)
    reasons.explain(known.field, known.origin, f"{known.reason}; {said}")


def steps_of(training: TrainingSettings, facts: Facts) -> int:
    """Count the optimizer steps; an estimate where rows are packed."""
    if training.max_steps:
        return training.max_steps
    rows = rows_of(training.packing, facts) * training.num_train_epochs
    return max(1, math.ceil(rows / rows_a_step(training, facts)))


def epochs_of(training: TrainingSettings, facts: Facts) -> float:
    """Passes over the mixture, those that `max_steps` comes to where it decides; see `steps_of`."""
    if training.max_steps is None:
        return training.num_train_epochs
    return training.max_steps * rows_a_step(training, facts) / rows_of(training.packing, facts)


def _standing(field: str, declared: TrainingSpec, reasons: Reasons, why: str | None = None) -> Any:
    """Settle a value that the declaration has even where it says nothing. `why`: None for what the field's
    description says.
    """
    value, about = getattr(declared, field), TrainingSpec.model_fields[field]
    if value == about.default:
        said = why or about.description or "the usual value"
        return reasons.put(f"training.{field}", value, "built-in", said[0].lower() + said[1:])
    return reasons.put(f"training.{field}", value, DECLARED, AS_DECLARED)


def packs(declared: TrainingSpec, name: str, facts: Facts) -> bool:
    """Say whether a method packs examples of a base as declared."""
    return declared.packing and method_of(name).packs and facts.leak is None


def _packing(declared: TrainingSpec, name: str, facts: Facts, reasons: Reasons) -> bool:
    packed = packs(declared, name, facts)
    if packed == declared.packing:
        return bool(_standing("packing", declared, reasons, "whole examples fill each row, kept apart"))
    if not method_of(name).packs:
        why = f"PEFT's {name} drops the positions that would keep packed examples apart"
        return bool(reasons.put("training.packing", packed, "built-in", why))
    return bool(reasons.put("training.packing", packed, "measured", f"{facts.leak}; {unpacked_cost(facts)}"))


def _share_beginnings(declared: TrainingSpec, facts: Facts, reasons: Reasons) -> str:
    """Return whether beginnings are shared, with what that saves as the reason where they are."""
    asked = declared.share_beginnings
    if asked != "off":
        times = facts.tokens / facts.computed
        saves = f"{facts.computed:,} of {facts.tokens:,} tokens a pass are computed, {times:.2f} times fewer"
        saves = saves if facts.shared else "what it saves is not counted, or nothing is in common"
        reasons.put("training.share_beginnings", asked, DECLARED, saves)
    return asked


def lone(facts: Facts) -> Facts:
    """Return the facts as of a base that keeps packed examples apart."""
    return replace(facts, leak=None)


def most_padding(facts: Facts) -> float:
    """Return the most positions that are computed for each token where none are packed."""
    return max(1.0, facts.examples * (facts.longest or facts.max_length) / facts.tokens)


def unpacked_cost(facts: Facts) -> str:
    """Say what it takes to train each example in a row of its own."""
    rows, most = rows_of(True, facts), most_padding(facts)
    return (
        f"each example has a row of its own, {facts.examples:,} a pass in place of about {rows:,} packed "
        f"ones, padded to the longest of its micro-batch: at most about {most:.2g} times the positions"
    )


def _checkpointing(declared: TrainingSpec, load: Load, reasons: Reasons) -> bool:
    default = defaults.gradient_checkpointing(load.method, load.facts.parameters)
    if not method_of(load.method).recomputes and declared.gradient_checkpointing:
        others = ", ".join(name for name, known in METHODS.items() if known.recomputes)
        raise UserError(
            default.reason,
            field="training.gradient_checkpointing",
            value=True,
            fix=f"Leave it out, or take one of {others}",
        )
    return bool(reasons.settle("training.gradient_checkpointing", declared.gradient_checkpointing, default))


def _precision(spec: VariantSpec, facts: Facts, reasons: Reasons) -> str:
    value = precision_of(spec, facts)
    if value == "bf16" and facts.device_kind == "cuda" and not facts.bf16:
        raise UserError(
            "the GPU that trains has no bf16 arithmetic",
            field="training.precision",
            value=value,
            fix="Leave it out: it trains in fp32; or name another card (resources.gpu_kind)",
        )
    if spec.training.precision != "auto":
        why = WITHOUT_TF32 if value == "fp32" and facts.device_kind == "cuda" else AS_DECLARED
        return str(reasons.put("training.precision", value, DECLARED, why))
    why = "the hardware computes in bf16" if facts.bf16 else "no bf16 arithmetic on this hardware"
    return str(reasons.put("training.precision", value, "host", why))


def _on_bad_rate(declared: TrainingSpec, reasons: Reasons) -> str:
    """Return what a bad rate leads to, with a reason where it is not the usual, to stop."""
    asked = declared.on_bad_rate
    if asked in ON_BAD_RATE:
        reasons.put("training.on_bad_rate", asked, DECLARED, ON_BAD_RATE[asked])
    return asked


def _deterministic(declared: TrainingSpec, facts: Facts, reasons: Reasons) -> bool:
    """Return whether sums have a fixed order, with a reason where it acts, on GPUs."""
    if facts.device_kind == "cuda":
        _standing("deterministic", declared, reasons, FIXED_ORDER)
    return declared.deterministic


def _deepspeed(spec: VariantSpec, load: Load, reasons: Reasons) -> dict[str, Any]:
    """Resolve how the states are sharded, as `spec.training.Deepspeed` has it."""
    declared = spec.training.deepspeed
    stage, origin = stage_of(spec, load)
    offload, offload_origin = offload_of(spec, load.facts)
    path = declared.nvme_path if offload.value == "nvme" else None
    buckets = int(declared.bucket_mb * 1e6)
    usual = declared.bucket_mb == DeepspeedSpec.model_fields["bucket_mb"].default
    field = "training.deepspeed"
    return {
        "stage": reasons.put(f"{field}.stage", stage.value, origin, stage.reason),
        "offload": reasons.put(f"{field}.offload", offload.value, offload_origin, offload.reason),
        "nvme_path": reasons.put(f"{field}.nvme_path", path, offload_origin, "for offload: nvme alone"),
        "bucket_bytes": reasons.put(
            f"{field}.bucket_bytes",
            buckets,
            "built-in" if usual else DECLARED,
            "DeepSpeed's own size of a communication" if usual else AS_DECLARED,
        ),
    }


def _watch(declared: TrainingSpec, reasons: Reasons) -> dict[str, Any]:
    """Resolve what is measured, as `spec.training.WatchSettings` has it."""
    watch = declared.watch.model_dump()
    for field, value in watch.items():
        given = value != type(declared.watch).model_fields[field].default
        if field in declared.watch.added and not given:
            continue
        origin: Origin = DECLARED if given else "built-in"
        why = AS_DECLARED if given else BUDGETED if field == "budget" else "not watched"
        reasons.put(f"training.watch.{field}", value, origin, why)
    return watch


def rows_of(packing: bool, facts: Facts) -> int:
    """Count the rows of one epoch: packed ones hold about max_length tokens each."""
    return math.ceil(facts.computed / facts.max_length) if packing else facts.examples


def rows_a_step(training: TrainingSettings, facts: Facts) -> int:
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * facts.ranks


def _accumulation(name: str, packing: bool, micro: int, epochs: float, facts: Facts) -> Default:
    rows, together, steps = rows_of(packing, facts) * epochs, micro * facts.ranks, defaults.WANTED_STEPS
    most = defaults.largest_batch(name, facts.parameters, facts.device_kind, facts.max_length)
    value = max(1, min(most.value // together, int(rows / (steps * together))))
    said = f"about {rows:,.0f} rows in all: {steps} steps or more of at most {most.value} rows{most.reason}"
    return Default(value, said)


def few_steps(training: TrainingSettings, facts: Facts, steps: int) -> str | None:
    """Warn where a training has so few optimizer steps that its rate rises and falls within them."""
    if steps >= FEW_STEPS:
        return None
    few = f"fewer than {FEW_STEPS} teach little by any method"
    if training.max_steps:
        return f"{steps} optimizer steps (training.max_steps: {training.max_steps}): {few}"
    rows, epochs = rows_of(training.packing, facts), training.num_train_epochs
    several = "s" * (rows != 1)
    packed = f"about {rows:,} packed row{several} of {training.max_length:,} tokens"
    count = packed if training.packing else f"{rows:,} example{several}"
    passes = f"{count}, {epochs:g} epoch{'s' * (epochs != 1)}"
    return (
        f"{steps} optimizer steps ({passes}, {rows_a_step(training, facts)} a step): {few}; more rows, more "
        "epochs or a smaller batch give more"
    )
