"""Looks at the model at step 0 and at each evaluation: says and keeps what it sees, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.data.render import load_tokenizer
from ft_dagster.program import write_json
from ft_dagster.training import ranks
from ft_dagster.training.contract import Member, TrainingRun
from ft_dagster.training.journal import Journal, StepLog
from ft_dagster.training.progress import TrainingProgress
from ft_dagster.training.watch import curves, flops, forgetting, spectrum
from ft_dagster.training.watch.reporting import Reports

if TYPE_CHECKING:
    from torch import Tensor

SPECTRUM_FILE = "spectrum.json"
Kind = Literal["forgetting", "given up"]


class Observer:
    """One training, watched. Every rank has one; the first looks, and all keep what it saw.

    `stopped`: why the training is to end before its last step: it forgot too much (export the best checkpoint
    within the limits), or it was given up, its validation loss being above `stop_above`. `can_generate`:
    whether this model answers on one rank alone (not where its weights are spread over several).
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
        evaluation_steps: Sequence[int],
        can_generate: bool = True,
    ) -> None:
        """Raises UserError where a benchmark cannot be read or a library of report_to is missing."""
        self.member, self._trainer = member, trainer
        self._journal, self._log, self._progress = journal, log, progress
        self._evaluation_steps = list(evaluation_steps)
        self._can_generate = can_generate
        settings = member.plan.training
        self.flops = flops.count_flops(
            run.base, member.plan.method, gradient_checkpointing=settings.gradient_checkpointing
        )
        if self.flops is None:
            progress.say("FLOPs cannot be counted for this architecture: an estimate is reported in the end")
        self.reports = Reports(member.report_to if ranks.is_first() else (), member.evidence, member.variant)
        self.reports.attach(trainer)
        self._tokenizer = load_tokenizer(run.base.folder)  # apart from the training's
        self._benchmark = _benchmark(run, member) if can_generate else None
        self.stopped: tuple[Kind, str] | None = self._judged(journal.steps) if journal.steps else None

    def observe(self, step: int) -> None:
        """After the losses of this step were measured: look, say, keep, judge."""
        for name, value in ranks.agree(lambda: self._look(step)).items():
            line = {"step": step, name: value}
            self._journal.observations.append(line)
            self._log.write(line)
            self._progress.at(step, WORDS[name](value))
        self.stopped = self._judged(step)
        if self.stopped:
            self._progress.warn(f"stopping at step {step}: {self.stopped[1]}")

    @property
    def gave_up(self) -> bool:
        """Whether the training gave up above `stop_above`: nothing of it is to be exported."""
        return self.stopped is not None and self.stopped[0] == "given up"

    def within_limits(self, step: int) -> bool:
        """Whether the model of this step forgot no more than declared, as far as it was measured."""
        return self._forgot(step) is None

    def flops_spent(self) -> int | None:
        return self.flops.spent(self._journal) if self.flops else None

    def last(self, name: str, step: int) -> Any:
        """The observation of this name at this step, or None."""
        found = [each[name] for each in self._journal.observations if each["step"] == step and name in each]
        return found[-1] if found else None

    def write_spectrum(self, weights: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Of the model as it is now, into evidence/spectrum.json if it has one; its summary.

        `weights`: see `spectrum.spectrum`.
        """
        layers = spectrum.spectrum(self._trainer.model, weights)
        if layers and ranks.is_first():
            content = {"schema_version": 1, "layers": [layer.as_dict() for layer in layers]}
            write_json(self.member.evidence / SPECTRUM_FILE, content)
        return spectrum.summary(layers)

    def advice(self, summarized: Mapping[str, Any]) -> list[str]:
        """What spectrum and curves say about the next training, in words."""
        validation = sorted(self._journal.evaluations.get("validation", {}).items())
        return [
            *spectrum.advice(summarized),
            *curves.advice(
                list(enumerate(self._journal.losses, start=1)),
                validation,
                curves.Knobs.of(self.member.plan.method),
                rank_collapsed=spectrum.collapsed(summarized),
            ),
        ]

    def _look(self, step: int) -> dict[str, Any]:
        """What is seen of the model, by name; nothing that was not looked at."""
        from ft_dagster.training.watch.degeneration import degeneration

        model, seen = self._trainer.model, {}
        summarized = spectrum.summary(spectrum.spectrum(model))
        if summarized["layers"]:
            seen["spectrum"] = summarized
        if self._can_generate:
            with self._trainer.compute_loss_context_manager():  # in the precision of the training
                if self._benchmark:
                    seen["benchmark"] = self._benchmark.ask(model)
                seen["degeneration"] = degeneration(model, self._tokenizer)
        return seen

    def _judged(self, step: int) -> tuple[Kind, str] | None:
        forgot = self._forgot(step)
        if forgot:
            return "forgetting", forgot
        loss = self._journal.loss_at("validation", step)
        if loss is None or step not in self._evaluation_steps:
            return None
        number = self._evaluation_steps.index(step) + 1
        limit = self.member.stop_above.get(number)
        if limit is not None and loss > limit:
            return "given up", (
                f"validation loss {loss:.3f} at evaluation {number}, "
                f"above the {limit:.3f} of the runs before it"
            )
        return None

    def _forgot(self, step: int) -> str | None:
        general = self._journal.evaluations.get("general_holdout", {})
        return forgetting.passed(self.member.plan.training.watch, general, self._journal.observations, step)


def _benchmark(run: TrainingRun, member: Member) -> forgetting.Benchmark | None:
    asked, questions = member.benchmarks, member.plan.training.watch.questions
    if asked is None or not asked.tasks or not questions or not ranks.is_first():
        return None
    return forgetting.Benchmark(asked, questions, run.base.folder, member.output)


def _spectrum_words(found: Mapping[str, Any]) -> str:
    return (
        f"effective rank {found['effective_rank']:.1f} of {found['rank']}, condition {found['condition']:.0f}"
        f" (median of {found['layers']} layers)"
    )


def _benchmark_words(found: Mapping[str, float]) -> str:
    tasks = ", ".join(f"{name} {value:.1%}" for name, value in found.items() if name != "mean")
    return f"general benchmark {found['mean']:.1%} ({tasks})"


def _degeneration_words(found: Mapping[str, Any]) -> str:
    return f"general prompts: {found['repeated']:.0%} repeated 4-grams, {found['empty']:.0%} empty answers"


WORDS = {"spectrum": _spectrum_words, "benchmark": _benchmark_words, "degeneration": _degeneration_words}
