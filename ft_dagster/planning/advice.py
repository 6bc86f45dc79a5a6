"""Says what a person should know before this is trained, one line each, the gravest first.

Warnings about evaluation and export are kept apart: they are no part of plan.json, or a change of either
would train again.
"""

from __future__ import annotations

import math
from importlib.metadata import version

from ft_dagster.methods import method_of
from ft_dagster.methods.layers import ALL, LayerSettings, narrowest_layer
from ft_dagster.methods.lora import ALPHA, LoraSettings
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.objectives import objective_of
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory_formula import StorageBytes
from ft_dagster.planning.methods import defaults
from ft_dagster.planning.methods.cautions import on_cpu_kernels
from ft_dagster.planning.methods.training_settings import few_steps
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.training import TrainingSettings

USUAL_SHARE = (0.05, 0.10)
LITTLE = 0.015  # of all tokens that are read: 1.4% took nothing off (benchmarks/notes/general-text.md)
LARGEST = 128  # the top of the usual ranks; above it an adapter's cost nears that of full fine-tuning
ROUNDING = 0.0025  # a share comes out in whole examples
USUAL_ALPHA = float(ALPHA.value)
LARGE_BATCH_ROWS = 32  # of an adapter: published curves of LoRA and full part between 32 and 256


def training_warnings(
    spec: VariantSpec, facts: Facts, method: MethodSettings, training: TrainingSettings, steps: int
) -> list[str]:
    """Return warnings about what is trained, and on what. `steps`: of the optimizer."""
    said = [
        _knowledge(spec, method.name),
        _general(spec, facts, method.name),
        _scaling(method) if isinstance(method, LoraSettings) else None,
        _capacity(facts, method) if isinstance(method, LoraSettings) else None,
        _narrowest(spec, facts, method) if isinstance(method, LayerSettings) else None,
        _unquantized(facts, method.name),
        _rate(facts, method.name, spec.objective, training.learning_rate),
        _batch(spec, facts, method.name, training),
        few_steps(training, facts, steps),
        *_host(spec, facts, method.name, training),
        *slower_ways(spec, facts, method.name, training),
    ]
    return [line for line in said if line]


def release_warnings(spec: VariantSpec, name: str, storage: StorageBytes, sharing: int) -> list[str]:
    """Return warnings about how it is judged and served; `sharing`: the tenant's declared variants on the
    base.

    `name`: the method that is planned; `storage`: of it.
    """
    said = []
    if objective_of(spec.objective).judged_by == "questions" and not spec.evaluation.task:
        said.append(
            f"{spec.objective} without evaluation.task: perplexity falls when style is learned; "
            "only factual questions of the domain show whether the facts were"
        )
    if storage.whole_bytes is None or storage.adapter_bytes is None:
        return said
    adapter, whole = (f"{size / 1e6:,.1f} MB" for size in (storage.adapter_bytes, storage.whole_bytes))
    if spec.export.format == "merged" and sharing > 1:
        said.append(
            f"export: merged writes {whole} for each of the tenant's {sharing} variants on this base; "
            f"an adapter is {adapter} in fp32 beside the one base"
        )
    if spec.export.format == "adapter" and sharing == 1:
        said.append(
            f"export: adapter is {adapter} in fp32 and needs its base beside it; no other variant of the "
            f"tenant's shares that base, and merged ({whole}) would serve without the adapter's cost"
        )
    return said


def scaling_of(method: LoraSettings) -> float:
    """Return what the update BA is multiplied by: alpha/r, alpha/sqrt(r) with rsLoRA."""
    return method.alpha / (math.sqrt(method.rank) if method.use_rslora else method.rank)


def alpha_note(method: MethodSettings) -> str | None:
    """Say of the common rule, alpha = 2r, where that is not what is usual here, on what little it rests."""
    if not isinstance(method, LoraSettings) or not _by_common_rule(method):
        return None
    times = method.alpha / USUAL_ALPHA
    if math.isclose(times, 1.0, rel_tol=0.01):
        return None
    return (
        f"alpha {method.alpha:g} is 2r, the common rule: steps of {times:.3g} times those of 32, the default "
        "here. On two tasks of a 135M base one rate did for ranks 4, 16 and 64 with 32, and 2r at rank 64 "
        "forgot three times as much or more; no other size was measured"
    )


def _by_common_rule(method: LoraSettings) -> bool:
    return not method.use_rslora and math.isclose(method.alpha, 2 * method.rank)


def _knowledge(spec: VariantSpec, name: str) -> str | None:
    if objective_of(spec.objective).teaches != "facts" or not method_of(name).freezes:
        return None
    return (
        f"NEW KNOWLEDGE BY {name.upper()}: style is learned, facts perhaps not; the evaluation needs "
        "factual questions of the domain, not only perplexity. `method: full` is said to be made for this"
    )


def _general(spec: VariantSpec, facts: Facts, name: str) -> str | None:
    share, (low, high) = facts.general_share, USUAL_SHARE
    if not method_of(name).freezes and share < low - ROUNDING:
        return (
            f"full fine-tuning with {share:.1%} general data: it moves every weight; "
            "at least 5% of the tokens should hold it to what it knew"
        )
    if spec.data.general is None:
        return (
            "no general data: frozen weights are not frozen behaviour; 5-10% is the usual share, of a corpus "
            "or, without one, of text that the base writes (`data.general: {from: base}`)"
        )
    of_read = share * facts.trained_tokens / max(1, facts.tokens)
    if spec.data.general.share_of == "trained" and of_read < LITTLE < low - ROUNDING <= share:
        return (
            f"general text is {share:.1%} of the trained tokens and {of_read:.1%} of all that are read: so "
            "little took nothing off what was forgotten; `data.general.share_of: processed` counts the latter"
        )
    if not low - ROUNDING <= share <= high + ROUNDING:
        return f"general share {share:.1%} is outside the usual 5-10%"
    return None


def _scaling(method: LoraSettings) -> str | None:
    alpha, rank, scaling = method.alpha, method.rank, scaling_of(method)
    usual = USUAL_ALPHA
    times = scaling * rank / usual
    if math.isclose(times, 1.0, rel_tol=0.01) or _by_common_rule(method):
        return None
    how, divisor = ("alpha/sqrt(r)", math.sqrt(rank)) if method.use_rslora else ("alpha/r", rank)
    return (
        f"alpha {alpha:g} with rank {rank} scales by {scaling:.3g} ({how}): steps of {times:.3g} times those "
        f"that usual rates are for, which alpha {usual * divisor / rank:.3g} would give at this rank"
    )


def _capacity(facts: Facts, method: LoraSettings) -> str | None:
    """Warn where LoRA has no parameter for each trained token to learn: it does as well as full fine-tuning
    while it has.
    """
    held, tokens = method.trainable_parameters(facts), facts.trained_tokens
    if held >= tokens:
        return None
    rank = 2 ** max(0, math.ceil(math.log2(tokens * method.rank / held)))
    enough = rank <= narrowest_layer(method.updated(facts), ALL)[0]
    wanted = f"rank {rank} would have as many" if enough else "no rank has as many: full would"
    return (
        f"rank {method.rank} trains {held:,} parameters and an epoch has {tokens:,} trained tokens: LoRA "
        f"with fewer parameters than tokens is known to fall behind full fine-tuning; {wanted}"
    )


def _narrowest(spec: VariantSpec, facts: Facts, method: LayerSettings) -> str | None:
    """Warn of a small layer, such as a gate of experts, that limits the rank of all."""
    most, layer = narrowest_layer(method.updated(facts), ALL)
    wanted = defaults.lora_rank(method.name, facts.examples, spec.objective, LARGEST).value
    if most >= wanted:
        return None
    return (
        f"{layer} has a side of {most} and limits the rank of every layer to that, where {wanted} is usual: "
        "name method.target_modules without it"
    )


def _unquantized(facts: Facts, name: str) -> str | None:
    """Say of a base of experts that nothing quantizes those: they are counted as they lie in memory."""
    quantized, experts = method_of(name).quantized, facts.expert_parameters
    if quantized is None or not experts:
        return None
    bits = 32 if quantized.rest_in_fp32 or not facts.bf16 else 16
    return (
        f"{name} quantizes linear layers alone: the experts, {experts / facts.parameters:.0%} of the base's "
        f"weights, stay at {bits} bits, and are counted so ({experts * bits / 8e9:,.2g} GB)"
    )


def _batch(spec: VariantSpec, facts: Facts, name: str, training: TrainingSettings) -> str | None:
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps * facts.ranks
    if not method_of(name).freezes or rows <= LARGE_BATCH_ROWS:
        return None
    usual = defaults.learning_rate(name, facts.hidden_size, spec.objective).value
    few = defaults.LARGEST_BATCH_ROWS
    return (
        f"{rows:,} rows a step: large batches cost an adapter more than full fine-tuning, at any rank; "
        f"up to {LARGE_BATCH_ROWS} are usual. By the square-root rule for Adam (arXiv 2205.10287) the "
        f"usual rate of {usual:g}, for {few} rows, would be {usual * math.sqrt(rows / few):.1g}"
    )


def _rate(facts: Facts, name: str, objective: str, rate: float) -> str | None:
    usual = defaults.learning_rate(name, facts.hidden_size, objective)
    if usual.low <= rate <= usual.high:
        return None
    side = "above" if rate > usual.high else "below"
    return f"learning rate {rate:g} is {side} the usual {usual.low:g} to {usual.high:g} of {name}"


def slower_ways(spec: VariantSpec, facts: Facts, name: str, training: TrainingSettings) -> list[str]:
    """Warn where a step on GPUs goes another way than the fast one, by the libraries that are installed
    here.
    """
    if facts.device_kind != "cuda":
        return []
    from ft_dagster.training.batches.attention import installed_kernel
    from ft_dagster.training.loss import FUSED_HEAD_SINCE, has_fused_head

    known = method_of(name)
    said, shared = [], objective_of(spec.objective).own_loss is None and known.trains != "prompt"
    logits = "logits of all trained positions of a micro-batch are made at once"
    if shared and not has_fused_head():
        since = ".".join(map(str, FUSED_HEAD_SINCE))
        made = logits if not known.freezes else "logits are made a part of the positions at a time"
        said.append(
            f"TRL {version('trl')} has no fused output head, which {since} has: {made}, which is slower and "
            "takes more memory (counted here)"
        )
    elif shared and known.trains == "layers" and spec.base_model.new_tokens:
        said.append(
            f"TRL's fused output head does not read the rows of new tokens: {logits}, which is slower and "
            "takes more memory (counted here)"
        )
    if training.packing and training.precision == "bf16" and installed_kernel() is None:
        said.append(
            f"torch {version('torch')} has no attention over packed examples that fits (varlen_attn with a "
            "window and shared heads), nor is flash-attn there: examples attend one after the other, slower"
        )
    return said


def _host(spec: VariantSpec, facts: Facts, name: str, training: TrainingSettings) -> list[str]:
    """Say what this host does otherwise than the declaration may expect."""
    if facts.device_kind == "cuda":
        return []
    said = []
    if spec.resources.gpus > 1:
        said.append(
            f"{spec.resources.gpus} GPUs are declared and this host has none: it trains on its cores, "
            f"in {facts.ranks} process{'es' if facts.ranks > 1 else ''} (resources.cpu_ranks)"
        )
    if training.precision == "bf16" and not facts.bf16:
        said.append("bf16 is declared and this CPU has no bf16 arithmetic: it is emulated, slower than fp32")
    slower = on_cpu_kernels(name)
    return [*said, slower] if slower else said
