"""Measures what a training forgets: the rise of the loss on general text, a benchmark's fall, and their
limits.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.gate.level import ALPHA
from ft_dagster.provenance.held import FOLDER, held_files
from ft_dagster.spec.training import WatchSettings
from ft_dagster.training.contract import Benchmarks, Member, TrainingRun
from ft_dagster.training.watch.budget import ForwardWork
from ft_dagster.training.watch.falls import ANSWERS, Fall, fall_of

if TYPE_CHECKING:
    from lm_eval.api.task import Task

GENERATED = 256  # tokens of an answer where a task does not say: lm-eval's own


class Benchmark:
    """Puts a few questions of each declared lm-eval task, the same every time, to a model in training."""

    def __init__(self, benchmarks: Benchmarks, questions: int, base: Path, output: Path) -> None:
        """Reads the tasks and draws the questions; what it makes of them lies in `output`. Raises UserError
        where that cannot be.
        """
        from ft_dagster.data.rendering.render import load_tokenizer
        from ft_dagster.evaluation.tasks.load import TABLES, load_task, prepare_environment
        from ft_dagster.evaluation.tasks.tasks import frozen_tasks, resolve_tasks
        from ft_dagster.gate.sampling import draw_questions

        entries = resolve_tasks(
            benchmarks.tasks, benchmarks.project, field="evaluation.general", roots=benchmarks.roots
        )
        prepare_environment(entries)
        self._tokenizer, self._seed = load_tokenizer(base), benchmarks.seed
        self.identity = {
            "benchmark": dict(benchmarks.tasks), "questions": questions, "seed": benchmarks.seed,
            ANSWERS: True,
        }  # fmt: skip
        self._grouped = {entry.name for entry in entries if entry.file is not None}
        self._shares: bool | None = None  # see TokenBatchedLM: to try it costs as much as some questions
        self._tasks: dict[str, tuple[dict[str, Task], dict[str, list[int]]]] = {}
        shutil.rmtree(output / TABLES, ignore_errors=True)  # of a try before this one
        with held_files(output / FOLDER) as held, frozen_tasks(entries, benchmarks.tasks, held):
            for entry in entries:
                loaded = load_task(entry, output / TABLES)
                chosen = draw_questions(loaded.questions, questions, benchmarks.seed)
                parts = {name: part for name, part in loaded.parts.items() if name in chosen}
                for part in parts.values():
                    _configure(part, entry.entry)
                self._tasks[entry.name] = (parts, chosen)

    @property
    def asked(self) -> str:
        """Say how many questions are asked of how many."""
        drawn = sum(len(each) for _, chosen in self._tasks.values() for each in chosen.values())
        known = sum(len(part.eval_docs) for parts, _ in self._tasks.values() for part in parts.values())
        return f"{drawn:,} of {known:,} questions"

    @cached_property
    def work(self) -> ForwardWork:
        """Count the work of asking once: a question's text once, its answers or as much as may be
        generated.
        """
        requests = [
            request.args
            for parts, chosen in self._tasks.values()
            for name, part in self._seeded(parts).items()
            for request in _requests(part, chosen[name])
        ]
        texts = {str(args[0]) for args in requests}
        asked = sum(len(self._tokenizer(text)["input_ids"]) for text in texts)
        answered = sum(self._answer_tokens(args) for args in requests)
        return ForwardWork(asked + answered, 0, answered)

    def ask(self, model: Any) -> dict[str, Any]:
        """Return accuracy by task (its main metric, over the questions drawn), their "mean", and ANSWERS."""
        from lm_eval.evaluator import evaluate

        from ft_dagster.evaluation.models.model import TokenBatchedLM
        from ft_dagster.training.watch.undisturbed import undisturbed

        scores, answers = dict[str, float](), dict[str, list[float]]()
        with undisturbed(model):
            lm = TokenBatchedLM(model, self._tokenizer, self._shares, begins=False)
            for name, (parts, chosen) in self._tasks.items():
                drawn = {
                    part: each for part, each in chosen.items() if len(each) < len(parts[part].eval_docs)
                }
                asked = {"tasks": self._seeded(parts)}
                rows = evaluate(lm=lm, task_dict=asked, samples=drawn, bootstrap_iters=0, log_samples=True)[
                    "samples"
                ]
                answered = [row for part in parts for row in _in_order(rows[part])]
                values = _values(name, answered)
                scores[name] = sum(values) / len(values)
                answers[name] = _by_unit(values, answered, grouped=name in self._grouped)
        self._shares = lm.shares
        return {**scores, "mean": sum(scores.values()) / len(scores), ANSWERS: answers}

    def _seeded(self, parts: dict[str, Task]) -> dict[str, Task]:
        """Seed the parts so that the examples before a question are drawn from the beginning, the same at
        every look.
        """
        for part in parts.values():
            part.set_fewshot_seed(seed=self._seed)
        return parts

    def _answer_tokens(self, args: tuple[Any, ...]) -> int:
        """Count the answer's tokens in a request: (text, answer) to be scored, (text, settings) to be
        generated, (text,) in itself.
        """
        answer = args[1] if len(args) > 1 else ""
        if isinstance(answer, str):
            return len(self._tokenizer(answer)["input_ids"])
        return int(answer.get("max_gen_toks") or GENERATED)


def benchmark_of(run: TrainingRun, member: Member) -> Benchmark | None:
    """Return the questions that a member declares, None where it declares none. Raises UserError."""
    asked, questions = member.benchmarks, member.plan.training.watch.questions
    if asked is None or not asked.tasks or not questions:
        return None
    return Benchmark(asked, questions, run.base.folder, member.output)


def general_rise(general: Mapping[int, float], step: int) -> float | None:
    """Return the rise in nats a token over step 0; None where either was not measured."""
    first, now = general.get(0), general.get(step)
    return None if first is None or now is None else now - first


def passed(
    watch: WatchSettings,
    general: Mapping[int, float],
    observations: Sequence[Mapping[str, Any]],
    step: int,
    looks: int,
) -> str | None:
    """Say which limit the model of `step` is beyond, in words; None within them, or where it was not
    measured. What is not finite is beyond each; a fall of the benchmark has to be shown at one of so many
    `looks`.
    """
    rise = general_rise(general, step)
    limit = watch.general_loss_limit
    if limit is not None and rise is not None and not rise <= limit:
        return f"the loss on held-out general text rose by {rise:.3f} nats a token (limit {limit:g})"
    limit = watch.benchmark_limit
    fall = None if limit is None else fall_of(observations, step)
    if limit is None or fall is None or fall.size <= limit or not fall.shown(looks):
        return None
    beyond = _beyond(fall, limit)
    return beyond if fall.p is None else f"{beyond}, which chance does not explain ({_of_looks(fall, looks)})"


def unsure(
    watch: WatchSettings, observations: Sequence[Mapping[str, Any]], step: int, looks: int
) -> str | None:
    """Say that a fall of the benchmark is beyond its limit and not shown, so that nothing is stopped for it;
    None where that is not so.
    """
    limit = watch.benchmark_limit
    fall = None if limit is None else fall_of(observations, step)
    if limit is None or fall is None or fall.size <= limit or fall.shown(looks):
        return None
    return f"{_beyond(fall, limit)}, which chance may explain ({_of_looks(fall, looks)}): it goes on"


def _beyond(fall: Fall, limit: float) -> str:
    size, most = 100 * fall.size, 100 * limit
    return f"the accuracy on the general benchmark fell by {size:.1f} points (limit {most:.3g})"


def _of_looks(fall: Fall, looks: int) -> str:
    each = f", {100 * ALPHA:g}% over {looks}" if looks > 1 else ""
    return f"{fall.units} questions, p = {fall.p:.2g}, level {100 * ALPHA / looks:.2g}%{each}"


def _requests(task: Any, chosen: list[int]) -> list[Any]:
    """Return the requests that lm-eval makes of these documents."""
    task.build_all_requests(samples=chosen)
    return list(task.instances)


def _configure(task: Any, entry: str) -> None:
    if getattr(task, "UNSAFE_CODE", False) or task.get_config("unsafe_code"):
        raise UserError(
            "the task runs code that the model wrote",
            field="evaluation.general",
            value=entry,
            fix="Declare another task, or set training.watch.questions to 0",
        )
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of lm-eval in the order of their documents."""
    return sorted(rows, key=lambda row: int(row["doc_id"]))


def _by_unit(values: list[float], rows: Sequence[Mapping[str, Any]], *, grouped: bool) -> list[float]:
    """Return the values with those of each group summed, as the gate has the units of its tests."""
    import numpy as np

    from ft_dagster.evaluation.planned_task import group_of
    from ft_dagster.gate.groups import units_of

    groups = [group_of(row["doc"]) if grouped else None for row in rows]
    sums, _ = units_of(np.array(values), groups)
    return [float(each) for each in sums]


def _values(name: str, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the main metric of each question. Raises UserError unless it is a share."""
    from ft_dagster.gate.samples import main_metric

    numbers = [key for key in rows[0]["metrics"] if isinstance(rows[0][key], int | float)]
    values = [row.get(main_metric(numbers)) if numbers else None for row in rows]
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise UserError(
            f"the task has no metric between 0 and 1 per question: {', '.join(rows[0]['metrics'])}",
            field="evaluation.general",
            value=name,
            fix="Ask one with accuracy or exact match, or set training.watch.questions to 0",
        )
    return [float(value) for value in values if value is not None]
