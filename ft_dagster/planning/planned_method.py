"""Plans one method for a declaration on one kind of hardware: its settings, its layout, what it holds.

It is laid out as the declaration says; what that leaves open (micro-batch, checkpointing, ZeRO stage) is
chosen for speed on GPUs (`methods/layout_search.py`), else changed, the mildest first, until the method fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ft_dagster.errors import UserError
from ft_dagster.methods import method_of
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.models.attention import attention_of
from ft_dagster.models.stored import refuse_merged, refuse_requantized
from ft_dagster.objectives import objective_of
from ft_dagster.planning.cost.learned import Correction, Finished, memory_correction
from ft_dagster.planning.cost.questions import NOT_COUNTED, QuestionsThere
from ft_dagster.planning.cost.serving import Manner
from ft_dagster.planning.dryrun import footprint as dryrun
from ft_dagster.planning.dryrun import occupancy as spread
from ft_dagster.planning.dryrun.architecture import architecture_file, configuration
from ft_dagster.planning.dryrun.footprint import Footprint, footprint
from ft_dagster.planning.dryrun.reach import untrained_by
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.planning.estimate import MemoryBytes
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.judging import Judges
from ft_dagster.planning.layout import Layout
from ft_dagster.planning.memory_formula import Load, frozen_bytes
from ft_dagster.planning.memory_formula import memory as states_of
from ft_dagster.planning.methods.layout_search import fastest_that_fits, search_space
from ft_dagster.planning.methods.method_settings import LAYERS, resolve_method
from ft_dagster.planning.methods.question import Candidate, fewest_gpus
from ft_dagster.planning.methods.resolved import Resolved, resolve, with_method
from ft_dagster.planning.methods.sharding import is_sharded
from ft_dagster.planning.methods.training_settings import (
    epochs_of,
    lone,
    most_padding,
    packs,
    precision_of,
)
from ft_dagster.planning.reasons import Reasons
from ft_dagster.spec import VariantSpec
from ft_dagster.training.batches.sharing import refuse_sharing
from ft_dagster.training.contract import Base, ParentAdapter
from ft_dagster.training.methods.stacking import check_parent
from ft_dagster.training.methods.starts import check_start
from ft_dagster.training.watch import flops

if TYPE_CHECKING:
    from ft_dagster.planning.packed_rows import ExampleLengths

MOST_GPUS = 64
SURELY_HELD = 0.7  # of weights, gradients and states by rule of thumb: gradients go as they are used


@dataclass(frozen=True)
class PlanContext:
    """Holds what a survey needs beside the declaration and the facts.

    `architecture`: a folder with config.json; `base`: digest of the base model; `finished`: its trainings;
    `judges`: GPUs that may judge; `questions`: on what.
    `lengths`: of the examples, by which steps are counted; None: they are estimated.
    `seconds_per_question`: of one model, as an evaluation took on this hardware. `probed_hours`: taken.
    `resume_points`: states of the first pass that are kept.
    """

    architecture: Path
    hardware: Hardware
    variants: int = 1
    new_token_ids: tuple[int, ...] = ()
    parent: ParentAdapter | None = None
    budget_usd: float | None = None
    deadline_hours: float | None = None
    serving: Manner | None = None
    base: str = ""
    finished: tuple[Finished, ...] = ()
    judges: Judges | None = None
    questions: QuestionsThere = NOT_COUNTED
    lengths: ExampleLengths | None = None
    seconds_per_question: float | None = None
    probed_hours: float | None = None
    resume_points: int = 0

    @property
    def device_memory(self) -> int | None:
        return self.hardware.memory_bytes


@dataclass(frozen=True)
class PlannedMethod:
    """Holds one method, resolved and laid out; see `untrained_by`. `occupancy` is before `correction`."""

    resolved: Resolved
    layout: Layout
    occupancy: spread.Occupancy
    correction: Correction
    candidate: Candidate
    untrained: str | None = None

    @property
    def held(self) -> MemoryBytes:
        """Return the bytes on one device by what they are, what was learned from finished trainings among
        them.
        """
        by_dry_run, total = self.occupancy, self.candidate.memory_bytes
        parts = {each.name: getattr(by_dry_run, each.name) for each in fields(by_dry_run)}
        return MemoryBytes(**parts, total=total, correction=total - by_dry_run.total)


def plan_method(spec: VariantSpec, facts: Facts, context: PlanContext) -> PlannedMethod:
    """Plan one method by name. Raises UserError for what it cannot be."""
    resolved = resolve(spec, facts)
    if resolved.training.share_beginnings != "off":
        config, longest = configuration(context.architecture), facts.longest or facts.max_length
        refuse_sharing(resolved.training, resolved.method, config, facts.device_kind, longest)
    _refuse_stored(spec, resolved.name, context)
    if context.parent is not None and isinstance(resolved.method, LoraSettings):
        check_start(resolved.method.init_lora_weights, stacked=True, divided=False)
        check_parent(context.parent, resolved.method)
    untrained = untrained_by(resolved.method, context.architecture)
    first, held = _layout(resolved, facts), DeviceMemory(spec, facts, context)
    layout = _filled(resolved, first, held) or _milder_that_fits(spec, first, facts, held)
    if layout != first:
        resolved = _laid_out(resolved, first, layout, held)
    refuse_divided(resolved.method, layout)
    occupied, candidate = held.occupancy_of(layout), _candidate(resolved, layout, held)
    return PlannedMethod(resolved, layout, occupied, held.correction_of(layout), candidate, untrained)


def refuse_divided(method: MethodSettings, layout: Layout) -> None:
    """Raises UserError where ZeRO-3 would divide what PEFT takes whole: tensors of experts, which it updates
    as they are used, and layers at a part of which an update begins.
    """
    if layout.zero_stage != 3 or not isinstance(method, LoraSettings):
        return
    check_start(method.init_lora_weights, stacked=False, divided=True)
    if tensors := method.target_parameters:
        raise UserError(
            f"ZeRO-3 divides every tensor, and PEFT updates {tensors[0]} where it lies whole",
            field="training.deepspeed.stage",
            value=3,
            fix=f"Train on devices that hold the base whole, or name in method.{LAYERS} layers alone",
        )


def _refuse_stored(spec: VariantSpec, name: str, context: PlanContext) -> None:
    """Raises UserError for what cannot be done with a base that is stored quantized."""
    file, method = architecture_file(context.architecture), method_of(name)
    if method.quantized:
        refuse_requantized(file, name)
    if method.freezes and spec.export.format == "merged":
        refuse_merged(file)


class DeviceMemory:
    """Computes the bytes of one device at a layout, by dry run, which keeps what it ran before."""

    def __init__(self, spec: VariantSpec, facts: Facts, context: PlanContext) -> None:
        self.spec, self.facts, self.context = spec, facts, context
        self._methods: dict[str, MethodSettings] = {}

    def occupancy_of(self, layout: Layout) -> spread.Occupancy:
        bucket = int(self.spec.training.deepspeed.bucket_mb * 1e6)
        sharding = spread.Sharding(layout.gpus, layout.zero_stage, layout.offload, bucket)
        return spread.occupancy(self._footprint(layout), sharding)

    def correction_of(self, layout: Layout) -> Correction:
        context = self.context
        return memory_correction(context.finished, context.base, context.hardware.name, layout)

    def bytes_of(self, layout: Layout) -> int:
        """Return the bytes as corrected by finished trainings."""
        return max(0, self.occupancy_of(layout).total + self.correction_of(layout).added)

    def fits(self, layout: Layout) -> bool:
        memory = self.context.device_memory
        return memory is None or self.bytes_of(layout) <= memory

    def hopeless(self, layout: Layout) -> bool:
        """Say whether weights, gradients and states alone are far too many: a dry run would tell nothing
        new.
        """
        memory = self.context.device_memory
        return memory is not None and self._least(layout) > memory

    def at_least(self, layout: Layout) -> int:
        """Return `bytes_of`, or where it is hopeless some bytes that are too many as well."""
        return self._least(layout) if self.hopeless(layout) else self.bytes_of(layout)

    def _least(self, layout: Layout) -> int:
        facts = replace(self.facts, ranks=layout.gpus)
        trained = self._method(layout.method).trainable_parameters(
            facts, len(self.spec.base_model.new_tokens)
        )
        load = Load(layout.method, trained, precision_of(self.spec, facts), facts)
        return int(SURELY_HELD * states_of(load, layout.zero_stage, layout.offload).floor_bytes)

    def flops_per_token(self, layout: Layout, method: MethodSettings) -> float:
        """Count FLOPs, forward, backward and recomputation; estimate them by weights where they cannot be
        counted.
        """
        counted = self.counted_flops(layout, method)
        if counted is not None:
            return counted
        passes = (4 if method_of(method.name).freezes else 6) + 2 * layout.gradient_checkpointing
        return float(passes * self.facts.parameters)

    def counted_flops(self, layout: Layout, method: MethodSettings) -> float | None:
        """Count the FLOPs of a token; None where the base cannot be run on shapes alone."""
        same = dryrun.unquantized(method)
        base = Base(
            folder=self.context.architecture,
            digest="0" * 64,
            new_token_ids=self.context.new_token_ids,
            parent=self.context.parent,
        )
        counted = flops.count_row(
            base,
            same,
            layout.length,
            self._trained(1, layout.length),
            gradient_checkpointing=layout.gradient_checkpointing,
            alike=self._alike(same),
        )
        return None if counted is None else counted / layout.length

    def _alike(self, method: MethodSettings) -> bool:
        context = self.context
        return dryrun.alike(
            context.architecture, method, new_token_ids=context.new_token_ids, parent=context.parent
        )

    def scores(self, layout: Layout) -> int | None:
        """Return the bytes more that a step takes since attention makes scores of whole rows: of a base whose
        class has no other; None elsewhere.
        """
        file = architecture_file(self.context.architecture)
        if attention_of(configuration(file)) != "eager":
            return None
        return self._footprint(layout).peak - self._footprint(layout, fused=True).peak

    def _footprint(self, layout: Layout, *, fused: bool = False) -> Footprint:
        step = Step(
            rows=layout.micro_batch,
            length=layout.length,
            trained_positions=self._trained(layout.micro_batch, layout.length),
            precision=cast(Any, precision_of(self.spec, self.facts)),
            gradient_checkpointing=layout.gradient_checkpointing,
            packed=packs(self.spec.training, layout.method, self.facts),
            sharded=layout.zero_stage > 0,
            device="cuda" if self.facts.device_kind == "cuda" else "cpu",
            own_loss=objective_of(self.spec.objective).own_loss,
            fused=fused,
        )
        return footprint(
            self.context.architecture,
            self._method(layout.method),
            step,
            new_token_ids=self.context.new_token_ids,
            parent=self.context.parent,
        )

    def _method(self, name: str) -> MethodSettings:
        if name not in self._methods:
            declared = with_method(self.spec, name)
            self._methods[name] = resolve_method(declared, self.facts, Reasons())
        return self._methods[name]

    def _trained(self, rows: int, length: int) -> int:
        """Return the positions at which some of `rows` rows has a label, if labels fall alike on all."""
        share = min(1.0, self.facts.trained_tokens / self.facts.computed)
        return max(1, min(length - 1, round(length * (1 - (1 - share) ** rows))))


def _layout(resolved: Resolved, facts: Facts) -> Layout:
    training = resolved.training
    offload = training.deepspeed.offload
    return Layout(
        resolved.name,
        training.per_device_train_batch_size,
        training.gradient_checkpointing,
        training.max_length,
        training.deepspeed.stage,
        "none" if offload == "none" else "cpu",
        facts.ranks,
    )


def _filled(resolved: Resolved, first: Layout, held: DeviceMemory) -> Layout | None:
    """Choose what is not declared for speed, on GPUs whose memory is known; None elsewhere."""
    memory = held.context.device_memory
    if held.facts.device_kind != "cuda" or memory is None:
        return None
    free = search_space(held.spec.training, first, resolved.training.gradient_accumulation_steps)
    return fastest_that_fits(first, free, held.bytes_of, held.hopeless, memory)


def _milder_that_fits(spec: VariantSpec, first: Layout, facts: Facts, held: DeviceMemory) -> Layout:
    """Return the first that fits of the layouts that hold less and less, else the last of them."""
    milder = _milder(spec, first, facts)
    fitting = (each for each in milder if not held.hopeless(each) and held.fits(each))
    return next(fitting, milder[-1])


def _milder(spec: VariantSpec, first: Layout, facts: Facts) -> list[Layout]:
    """Return the layout as resolved, then with what is not declared changed, the mildest first."""
    tried = [first]
    if spec.training.per_device_train_batch_size is None and first.micro_batch > 1:
        tried += [replace(each, micro_batch=1) for each in tried]
    undecided = spec.training.gradient_checkpointing is None and method_of(first.method).recomputes
    if undecided and not first.gradient_checkpointing:
        tried += [replace(each, gradient_checkpointing=True) for each in tried]
    shards = spec.training.deepspeed.stage == "auto" and is_sharded(first.method) and facts.ranks > 1
    if shards and first.zero_stage < 3:
        tried += [replace(each, zero_stage=3) for each in tried]
    return tried


def _laid_out(resolved: Resolved, first: Layout, layout: Layout, held: DeviceMemory) -> Resolved:
    """Put the changed layout into the settings, with the bytes as the reason."""
    training, reasons = resolved.training, resolved.reasons
    before, after, memory = held.bytes_of(first), held.bytes_of(layout), held.context.device_memory
    why = f"{after / 1e9:,.1f} GB a device"
    if held.fits(layout) and memory is not None:
        why += f" instead of {before / 1e9:,.1f}" if before > after else f" of {memory / 1e9:,.1f}"
    changed: dict[str, Any] = {}
    if layout.micro_batch != first.micro_batch:
        changed["per_device_train_batch_size"] = layout.micro_batch
        grown = "; larger products" if layout.micro_batch > first.micro_batch else ""
        reasons.revise("training.per_device_train_batch_size", layout.micro_batch, f"{why}{grown}")
        if held.spec.training.gradient_accumulation_steps is None:
            times = training.gradient_accumulation_steps * first.micro_batch // layout.micro_batch
            changed["gradient_accumulation_steps"] = times
            reasons.revise("training.gradient_accumulation_steps", times, "the same batch in other parts")
    if layout.gradient_checkpointing != first.gradient_checkpointing:
        changed["gradient_checkpointing"] = layout.gradient_checkpointing
        cost = "20-40% slower" if layout.gradient_checkpointing else "fits without, 20-40% faster"
        reasons.revise("training.gradient_checkpointing", layout.gradient_checkpointing, f"{why}; {cost}")
    if layout.zero_stage != first.zero_stage:
        changed["deepspeed"] = training.deepspeed.model_copy(update={"stage": layout.zero_stage})
        reasons.revise("training.deepspeed.stage", layout.zero_stage, why)
    return replace(resolved, training=training.model_copy(update=changed))


def _candidate(resolved: Resolved, layout: Layout, held: DeviceMemory) -> Candidate:
    memory, load = held.context.device_memory, resolved.load
    return Candidate(
        resolved.name,
        load.trained,
        held.bytes_of(layout),
        held.fits(layout),
        layout.gpus if memory is None else fewest_gpus(_on(layout, held, memory), memory, most=MOST_GPUS),
        held.flops_per_token(layout, resolved.method),
        layout=_in_words(layout),
        epochs=epochs_of(resolved.training, held.facts),
        frozen_bytes=frozen_bytes(load) or None,
        padding=_padding(resolved, held),
    )


def _padding(resolved: Resolved, held: DeviceMemory) -> float:
    """Return the positions that are computed for each token where beginnings are shared, or a base does not
    let examples be packed: counted, else the most that there can be.
    """
    facts, training, lengths = held.facts, resolved.training, held.context.lengths
    if training.share_beginnings != "off":
        return facts.computed / facts.tokens
    if facts.leak is None or training.packing or not packs(held.spec.training, resolved.name, lone(facts)):
        return 1.0
    counted = None if lengths is None else lengths.padding(training, facts.ranks)
    return most_padding(facts) if counted is None else counted


def _on(layout: Layout, held: DeviceMemory, memory: int) -> Callable[[int], int]:
    """Return the bytes on one of n devices: copies where one fits or nothing can be sharded, else ZeRO-3."""
    alone = replace(layout, gpus=1, zero_stage=0, offload="none")
    whole = not method_of(layout.method).freezes
    shards = is_sharded(layout.method) and (whole or held.bytes_of(alone) > memory)

    def on(count: int) -> int:
        stage: Literal[0, 3] = 3 if shards and count > 1 else 0
        return held.bytes_of(replace(layout, gpus=count, zero_stage=stage, offload="none"))

    return on


def _in_words(layout: Layout) -> str:
    parts = [f"micro-batch {layout.micro_batch} of {layout.length} tokens"]
    if layout.gradient_checkpointing:
        parts.append("gradient checkpointing")
    if layout.zero_stage:
        parts.append(f"ZeRO-{layout.zero_stage} over {layout.gpus}")
    elif layout.gpus > 1:
        parts.append(f"a copy on each of {layout.gpus}")
    if layout.offload != "none":
        parts.append("states offloaded")
    return ", ".join(parts)
