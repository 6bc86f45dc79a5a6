"""Looks at the model at step 0 and at each evaluation: says and keeps what it sees, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.program import write_json
from ft_dagster.training import ranks
from ft_dagster.training.batches.batches import shape_of, side_by_side
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin
from ft_dagster.training.contract import Member, TrainingRun
from ft_dagster.training.journal import EXPORTED, Journal, StepLog
from ft_dagster.training.progress import TrainingProgress
from ft_dagster.training.watch import curves, degeneration, forgetting, rate, spectrum
from ft_dagster.training.watch.budget import ForwardWork, Split
from ft_dagster.training.watch.falls import ANSWERS, looks_of
from ft_dagster.training.watch.held_out import (
    BY_EXAMPLE,
    VALIDATION_ON,
    HeldOutBlock,
    losses_of,
    rows_at_once,
)
from ft_dagster.training.watch.measuring import UNITS, Measuring
from ft_dagster.training.watch.reporting import Reports

if TYPE_CHECKING:
    from torch import Tensor

SPECTRUM_FILE = "spectrum.json"
Kind = Literal["forgetting", "given up"]
MAY_BE_LOWERED = "Take a third of it, or declare training.on_bad_rate: lower, which does so, or warn"
LOWERED_BEFORE = "This is a third of the planned one already: declare a lower one"


class Observer:
    """Watches one training. Every rank has one; the first looks, and all keep what it saw.

    `stopped`: why the training is to end before its last step: it forgot too much (export the best checkpoint
    within the limits), or it was given up, its validation loss being above `stop_above`. `past`: by what it
    first passed a limit and went on.
    """

    def __init__(
        self,
        run: TrainingRun,
        member: Member,
        trainer: Any,
        *,
        journal: Journal,
        log: StepLog,
        progress: TrainingProgress,
        evaluations: Mapping[int, int],
        measuring: Measuring,
    ) -> None:
        """Watch a training. `evaluations`: step -> its number, as `stop_above` counts. Raises UserError where
        a library of report_to is missing.
        """
        self.member, self.measuring, self._trainer = member, measuring, trainer
        self._journal, self._log, self._progress = journal, log, progress
        self._numbers = dict(evaluations)
        self._rate_judged_at = rate.looked_at(trainer.args.max_steps, member.plan.training.warmup_ratio)
        if measuring.flops is None:
            progress.say("FLOPs cannot be counted for this architecture: an estimate is reported in the end")
        self.reports = Reports(member.report_to if ranks.is_first() else (), member.evidence, member.variant)
        self.reports.attach(trainer)
        self._tokenizer = load_tokenizer(run.base.folder)  # apart from the training's
        self.past: str | None = None
        self.stopped: tuple[Kind, str] | None = self._judged(journal.steps) if journal.steps else None

    def observe(self, step: int) -> None:
        """Look, say, keep, judge at a step."""
        for split in self.measuring.samples:
            if self.measuring.due(split, end=step == 0):
                self._measure(split, step)
        self._see(step, end=step == 0)
        self.stopped = self._judged(step)
        if self.stopped:
            self._progress.warn(f"stopping at step {step}: {self.stopped[1]}")

    def judge_rate(self, step: int) -> None:
        """Judge at one step, by the losses up to it, whether the rate is far off, and say it. Raises
        RateTooHigh unless the declaration wants no more than to be told.
        """
        if step != self._rate_judged_at:
            return
        losses, validation = list(self._journal.learned().values()), self._journal.loss_at("validation", 0)
        verdict = rate.judged(losses, validation)
        if verdict is None:
            return
        said = rate.sentence(verdict, losses, validation)
        if verdict == "too high" and self.member.plan.training.on_bad_rate != "warn":
            raise rate.RateTooHigh(
                said,
                field="training.learning_rate",
                value=self._trainer.args.learning_rate,
                fix=LOWERED_BEFORE if self._journal.lowered else MAY_BE_LOWERED,
            )
        self._progress.warn(said)

    def observe_exported(self, step: int) -> None:
        """Look a last time, at the model that is exported, which the trainer holds: what was not measured of
        it when it was trained.
        """
        for split in self.measuring.samples:
            if self._journal.loss_at(split, step) is None:
                self._measure(split, step, exported=True)
        self._see(step, end=True, exported=True)

    @property
    def gave_up(self) -> bool:
        """Say whether the training gave up above `stop_above`: nothing of it is to be exported."""
        return self.stopped is not None and self.stopped[0] == "given up"

    def flops_spent(self) -> int | None:
        return self.measuring.flops.spent(self._journal) if self.measuring.flops else None

    def last(self, name: str, step: int) -> Any:
        """Return the observation of this name at this step, or None."""
        found = [each[name] for each in self._journal.observations if each["step"] == step and name in each]
        return found[-1] if found else None

    def write_spectrum(self, weights: Mapping[str, Tensor] | None = None) -> dict[str, object]:
        """Write the spectrum of the model as it is now into evidence/spectrum.json if it has one, and return
        its summary.

        `weights`: see `spectrum.spectrum`.
        """
        layers = spectrum.spectrum(self._trainer.model, weights)
        if layers and ranks.is_first():
            content = {"schema_version": 1, "layers": [layer.as_dict() for layer in layers]}
            write_json(self.member.evidence / SPECTRUM_FILE, content)
        return spectrum.summary(layers)

    def advice(self, summarized: Mapping[str, Any]) -> list[str]:
        """Say what spectrum and curves advise for the next training, in words."""
        validation = sorted(self._journal.evaluations.get("validation", {}).items())
        return [
            *self._rate_advice(),
            *spectrum.advice(summarized),
            *curves.advice(
                list(self._journal.learned().items()),
                validation,
                curves.Knobs.of(self.member.plan.method),
                rank_collapsed=spectrum.collapsed(summarized),
            ),
        ]

    def _rate_advice(self) -> list[str]:
        """Say what the first steps showed of the rate, and whether it was lowered."""
        at, used = self._rate_judged_at, self._trainer.args.learning_rate
        planned = self.member.plan.training.learning_rate
        lowered = [f"began again at a learning rate of {used:g}: {planned:g} was too high"]
        validation = self._journal.loss_at("validation", 0)
        losses = list(self._journal.learned(at).values())
        verdict = rate.judged(losses, validation) if at is not None and self._journal.steps >= at else None
        said = [] if verdict is None else [rate.sentence(verdict, losses, validation)]
        return [*(lowered if self._journal.lowered else []), *said]

    def _measure(self, split: Split, step: int, *, exported: bool = False) -> None:
        """Measure the loss on a split's sample, into journal, log and progress."""
        sample, trainer = self.measuring.samples[split], self._trainer
        training, config = self.member.plan.training, trainer.model.config.get_text_config()
        most, micro_batch = training.max_length, training.per_device_train_batch_size
        rows = rows_at_once(micro_batch, most, config.vocab_size)

        def spend(block: HeldOutBlock) -> None:
            self._journal.measured(block.tokens, self.measuring.cost_of(block.bins, sample.examples))

        apart = self.member.by_example and split == "validation" and step > 0 and trainer.tells_examples_apart
        by_example: list[tuple[float, int]] = []

        def measured(examples: Examples, bins: list[Bin]) -> float:
            if not apart:
                return float(trainer.summed_loss(examples, bins, rows))
            losses: Mapping[int, float] = trainer.losses_by_example(examples, bins, rows)
            by_example.extend((losses[each], int(examples.trained[each])) for each in sorted(losses))
            return math.fsum(losses.values())

        found = losses_of(
            sample,
            measured,
            lambda bins: [shape_of(each, sample.examples, most) for each in side_by_side(bins, rows)],
            self.measuring.first if step == 0 else None,
            spend,
        )
        loss, before = found[sample.count], self._journal.evaluations.get(split, {}).items()
        known = [each for at, each in before if at and math.isfinite(each)]
        best = split == "validation" and step > 0 and loss < min(known, default=math.inf)
        self._journal.evaluated(split, step, loss)
        on = f"{sample} {UNITS[split]}"
        number = {"evaluation": self._numbers[step]} if step in self._numbers else {}
        self._log.write({"step": step, f"{split}_loss": loss, "on": on, **number, **_mark(exported)})
        self._progress.evaluated(step, split.replace("_", " "), loss, on, best)
        if split == "validation":
            self._keep(step, VALIDATION_ON, {str(count): each for count, each in found.items()}, exported)
        if by_example:
            self._keep(step, BY_EXAMPLE, by_example, exported)

    def _see(self, step: int, *, end: bool, exported: bool = False) -> None:
        for name, value in ranks.agree(lambda: self._look(step, end)).items():
            self._keep(step, name, value, exported)
            self._progress.at(step, f"{WORDS[name](value)}{self._beside_base(name, step)}")

    def _beside_base(self, name: str, step: int) -> str:
        """Say what the base answered, beside a later look at the questions, and show both while it trains."""
        first, now = (self.last(name, at) if name == "benchmark" else None for at in (0, step))
        if first is None or now is None:
            return ""
        self._progress.asked(now["mean"], first["mean"])
        return f"; the base {first['mean']:.1%}" if step else ""

    def _keep(self, step: int, name: str, value: Any, exported: bool) -> None:
        line = {"step": step, name: value}
        self._journal.observations.append(line)
        self._log.write({**line, **_mark(exported)})

    def _look(self, step: int, end: bool) -> dict[str, Mapping[str, object]]:
        """Return what is seen of the model, by name; nothing that was not looked at."""
        model, measuring = self._trainer.model, self.measuring
        seen: dict[str, Mapping[str, object]] = {}
        if step and not self.last("spectrum", step):  # at step 0 there is no update
            summarized = spectrum.summary(spectrum.spectrum(model))
            if summarized["layers"]:
                apart = {"experts_left_out": True} if spectrum.leaves_out_experts(model) else {}
                seen["spectrum"] = {**summarized, **apart}
        with self._trainer.accelerator.autocast():  # in the precision of the training, as a step
            benchmark, prompts = measuring.benchmark, measuring.prompts
            if benchmark and measuring.due("benchmark", end=end) and not self.last("benchmark", step):
                asked = self._shared(step, benchmark.identity, benchmark.work, lambda: benchmark.ask(model))
                seen["benchmark"] = asked
            if prompts and measuring.due("degeneration", end=end) and not self.last("degeneration", step):
                seen["degeneration"] = self._shared(
                    step,
                    degeneration.IDENTITY,
                    prompts,
                    lambda: degeneration.degeneration(model, self._tokenizer),
                )
        return seen

    def _shared(self, step: int, what: Mapping[str, Any], work: ForwardWork, look: Callable[[], Any]) -> Any:
        """Return what is kept of the base where this is its look, else what `look` gives."""
        found = self.measuring.first.read(what) if step == 0 else None
        if found is None:
            found = look()
            self._journal.measured(work.slots, self.measuring.cost(work))
            if step == 0:
                self.measuring.first.write(what, found)
        return found

    def _judged(self, step: int) -> tuple[Kind, str] | None:
        training, general = self.member.plan.training, self._journal.evaluations.get("general_holdout", {})
        watch, seen = training.watch, self._journal.observations
        looks = looks_of(training.on_bad_rate, len(self._numbers))
        forgot = forgetting.passed(watch, general, seen, step, looks)
        unsure = forgetting.unsure(watch, seen, step, looks)
        if unsure:
            self._progress.at(step, unsure)
        if forgot and watch.past_limit == "stop":
            return "forgetting", forgot
        if forgot and self.past is None:
            self._progress.warn(f"past a limit at step {step}: {forgot}; it goes on, as declared")
            self.past = forgot
        number = self._numbers.get(step)
        if number is None:
            return None
        loss, limit = self._compared(step), self.member.stop_above.get(number)
        if limit is not None and loss is not None and loss > limit:
            return "given up", (
                f"validation loss {loss:.3f} at evaluation {number}, "
                f"above the {limit:.3f} of the runs before it"
            )
        return None

    def _compared(self, step: int) -> float | None:
        """Return the validation loss on as many examples as the runs before it had; None where it has
        fewer.
        """
        on = self.member.stop_above_on
        if on is None:
            return self._journal.loss_at("validation", step)
        losses: Mapping[str, float] = self.last(VALIDATION_ON, step) or {}
        return losses.get(str(on))


def _mark(exported: bool) -> dict[str, bool]:
    """Mark lines about the exported model: written after the last step, and again if it is resumed."""
    return {EXPORTED: True} if exported else {}


_APART = ", experts not among them"


def _spectrum_words(found: Mapping[str, Any]) -> str:
    return (
        f"effective rank {found['effective_rank']:.1f} of {found['rank']}, condition {found['condition']:.0f}"
        f" (median of {found['layers']} layers{_APART if found.get('experts_left_out') else ''})"
    )


def _benchmark_words(found: Mapping[str, Any]) -> str:
    apart = {"mean", ANSWERS}
    tasks = ", ".join(f"{name} {value:.1%}" for name, value in found.items() if name not in apart)
    return f"general benchmark {found['mean']:.1%} ({tasks})"


def _degeneration_words(found: Mapping[str, Any]) -> str:
    return f"general prompts: {found['repeated']:.0%} repeated 4-grams, {found['empty']:.0%} empty answers"


WORDS = {"spectrum": _spectrum_words, "benchmark": _benchmark_words, "degeneration": _degeneration_words}
