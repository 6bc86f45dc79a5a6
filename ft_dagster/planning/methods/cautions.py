"""Warns of what a person should know before a method is taken, one line each, the gravest first."""

from __future__ import annotations

from ft_dagster.methods import method_of
from ft_dagster.methods.lora import CPU_STEP_SECONDS
from ft_dagster.planning.methods.question import NO_PROBE, Figures, ProbeCost, Question
from ft_dagster.program import of_hours

TIGHT = 0.95  # of a device's memory
GENERAL = 0.05  # of the tokens


def cautions(question: Question, figures: Figures) -> tuple[str, ...]:
    """Return warnings about one method for one question."""
    said = [_knowledge(question, figures), _general(question, figures), _hardware(question, figures)]
    return (*(line for line in said if line), *limits(question, figures))


def limits(question: Question, figures: Figures, probe: ProbeCost = NO_PROBE) -> tuple[str, ...]:
    """Return warnings about memory, money and time, and about what is served. `probe`: what is tried before
    counts.
    """
    said = [
        _tight(question, figures),
        _beyond(question, figures, probe),
        _merging(question, figures),
        _tries(question, figures),
    ]
    return tuple(line for line in said if line)


def _knowledge(question: Question, figures: Figures) -> str | None:
    name = figures.candidate.method
    if not question.teaches_facts or not method_of(name).freezes:
        return None
    return (
        f"NEW KNOWLEDGE BY {name.upper()}: style is learned, facts perhaps not; the evaluation needs "
        "factual questions of the domain, not only perplexity"
    )


def _tight(question: Question, figures: Figures) -> str | None:
    memory, needed = question.hardware.memory_bytes, figures.candidate.memory_bytes
    if memory is None or not figures.candidate.fits or needed <= TIGHT * memory:
        return None
    return (
        f"tight: {needed / 1e9:,.1f} of {memory / 1e9:,.1f} GB leaves {(memory - needed) / 1e9:,.1f} GB "
        "for what a plan does not see"
    )


def _beyond(question: Question, figures: Figures, probe: ProbeCost) -> str | None:
    over = []
    budget, usd = question.budget_usd, _with_probe(figures.usd, probe.usd)
    if budget is not None and usd is not None and usd > budget:
        tried = f", ${probe.usd:,.2f} of it the probe's" if probe.usd else ""
        over.append(f"${usd:,.2f} of a budget of ${budget:,.0f}{tried}")
    limit, hours = question.deadline_hours, _with_probe(figures.hours, probe.hours)
    if limit is not None and hours is not None and hours > limit:
        tried = f", {of_hours(probe.hours)} of it the probe's" if probe.hours else ""
        over.append(f"{of_hours(hours)} of a deadline of {of_hours(limit)}{tried}")
    return f"beyond the limits: {' and '.join(over)}" if over else None


def _with_probe(training: float | None, probe: float | None) -> float | None:
    return None if training is None else training + (probe or 0.0)


def _general(question: Question, figures: Figures) -> str | None:
    freezes, share = method_of(figures.candidate.method).freezes, question.general_share
    if not freezes and (share is None or share < GENERAL):
        has = "full fine-tuning" if share is None else f"full fine-tuning with {share:.1%} general data"
        return f"{has}: at least 5% of the tokens should be general, or it forgets"
    if share == 0 and freezes:
        return (
            "no general data: frozen weights are not frozen behaviour (measured elsewhere: LoRA of rank 32 "
            "forgot .050 where full forgot .030)"
        )
    return None


def _hardware(question: Question, figures: Figures) -> str | None:
    name, hardware = figures.candidate.method, question.hardware
    slower = on_cpu_kernels(name)
    if hardware.kind == "cpu" and slower:
        return slower
    if hardware.kind == "gpu" and not hardware.bf16:
        return f"{hardware.name} has no bf16 arithmetic: it trains in fp32, twice the bytes a weight"
    return None


def on_cpu_kernels(name: str) -> str | None:
    """Say what is known of a quantized method without a GPU: times of steps of 4 x 128 tokens."""
    quantized = method_of(name).quantized
    if quantized is None:
        return None
    return (
        f"{name} on a CPU runs through bitsandbytes' CPU kernels: at 135M a step took "
        f"{quantized.cpu_step_seconds} s where one of {quantized.plain} took {CPU_STEP_SECONDS} s"
    )


def _merging(question: Question, figures: Figures) -> str | None:
    known = method_of(figures.candidate.method)
    if question.serving != "copies" or not known.freezes or "merged" not in known.exports:
        return None
    loss = ", and what was learned on quantized weights loses a little in it" if known.quantized else ""
    return f"merged for serving: merging cannot be undone, so the adapter is kept beside it{loss}"


def _tries(question: Question, figures: Figures) -> str | None:
    tries = figures.experiments
    if question.budget_usd is None or tries is None or tries.usd is None or figures.usd is None:
        return None
    if figures.usd > question.budget_usd or tries.usd[1] <= question.budget_usd:
        return None
    low, high = tries.usd
    return (
        f"one training is within the budget of ${question.budget_usd:,.0f}; the {tries.runs[0]} to "
        f"{tries.runs[1]} before a production candidate cost ${low:,.0f} to ${high:,.0f}"
    )
