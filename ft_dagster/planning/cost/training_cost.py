"""Computes what a training costs: hours and USD from counted FLOPs, judging, storage, the experiments before
it.

Pure functions of figures. FLOPs are operations as torch's counter counts them, recomputation included; GB are
1e9 bytes; USD as in the GPU catalogue. Serving is in `serving`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ft_dagster.errors import UserError
from ft_dagster.gate.level import level_of
from ft_dagster.gate.power import DISCORDANT, POWER, PairedTest, is_judged_by_loss
from ft_dagster.gate.sequential_looks import expected_questions
from ft_dagster.methods import method_of
from ft_dagster.planning.memory_formula import adapter_bytes
from ft_dagster.settings import STORAGE_USD_PER_GB_MONTH
from ft_dagster.spec.variant import MOST_QUESTIONS, EvaluationSpec, GatesSpec

EXPERIMENTS = (10, 20)  # trainings before a production candidate
RESUME_BYTES = 4 + 8  # of an exact resume, a trained parameter: fp32 master and Adam's two moments


@dataclass(frozen=True)
class Utilization:
    """Holds the share of the peak that the counted operations of a step reach."""

    value: float
    origin: Literal["default", "learned"]
    reason: str


_SCORING = Utilization(0.30, "default", "forward passes alone, over short rows")
_MEASURED = Utilization(0.0, "learned", "as long as an evaluation here took")


def utilization_of(method: str, learned: Mapping[str, float] | None = None) -> Utilization:
    """Return the learned figure where there is one, else the stated default."""
    value = (learned or {}).get(method)
    if value is None:
        usual, reason = method_of(method).utilization
        return Utilization(usual, "default", reason)
    if not value > 0:
        raise UserError(
            "utilization is a share of the peak, above 0",
            field=f"utilization.{method}",
            value=value,
            fix="Leave it out, and the default is taken",
        )
    low = "; above 1: the stated peak is too low" if value > 1 else ""
    return Utilization(value, "learned", f"from the tenant's finished trainings{low}")


@dataclass(frozen=True)
class Spent:
    """Holds time and money. `hours` by the clock, None where the peak is unknown; `usd` None without a
    price.
    """

    flops: float
    hours: float | None
    usd: float | None
    utilization: Utilization

    def times(self, count: float) -> Spent:
        """Return the cost of doing it `count` times, one after the other."""
        hours = None if self.hours is None else self.hours * count
        return Spent(
            self.flops * count, hours, None if self.usd is None else self.usd * count, self.utilization
        )


def training_cost(
    flops_per_step: float,
    steps: float,
    *,
    gpus: int,
    peak_flops: float | None,
    usd_per_hour: float | None,
    utilization: Utilization,
) -> Spent:
    """Compute the cost of a training of `steps`, each of `flops_per_step` over all GPUs together.

    hours = FLOPs / (gpus x peak x utilization) / 3600; USD = hours x gpus x price. More GPUs are taken to
    share the work evenly: they change the hours and not the USD. `peak_flops`, `usd_per_hour`: of one GPU.
    """
    flops = flops_per_step * steps
    if peak_flops is None:
        return Spent(flops, None, None, utilization)
    hours = flops / (gpus * peak_flops * utilization.value) / 3600
    return Spent(flops, hours, None if usd_per_hour is None else hours * gpus * usd_per_hour, utilization)


@dataclass(frozen=True)
class GateQuestions:
    """Says for one gate what it would take to see its margin, and what is asked. `needed` None: none would
    do.
    """

    gate: str
    margin: float
    needed: int | None
    asked: int | None  # None: all that there are
    sentence: str
    raised: str = "raise evaluation.limit to {:,}"

    @property
    def unseen(self) -> bool:
        """Say whether the questions asked are too few to see the margin."""
        return self.needed is not None and self.asked is not None and self.asked < self.needed


def gate_questions(
    gates: GatesSpec, evaluation: EvaluationSpec, test_rows: int | None = None
) -> tuple[GateQuestions, ...]:
    """Return the gates on shares of right answers, at the level of a first try. `test_rows`: see
    `unseen_margins`.

    Every general benchmark must pass, so each is given a power of 0.8^(1/k), that all k pass with 0.8.
    """
    benchmarks, level = len(evaluation.general), level_of(gates.alpha)
    found = []
    if not is_judged_by_loss(gates, evaluation):
        rows = None if evaluation.task or test_rows is None else test_rows // evaluation.sets
        asked = min((n for n in (evaluation.most, rows) if n is not None), default=None)
        few = rows is not None and asked == rows
        found.append(_gate("task_margin", gates.task_margin, asked, 1, level, few=few))
    if benchmarks:
        found.append(_gate("general_margin", gates.general_margin, evaluation.most, benchmarks, level))
    return tuple(found)


def unseen_margins(
    gates: GatesSpec, evaluation: EvaluationSpec, test_rows: int | None = None
) -> tuple[str, ...]:
    """Return a sentence for each margin that the declared questions cannot see, and how many would.
    `test_rows`: of the variant's own, which are asked where no task is declared; None: not known.
    """
    return tuple(
        f"{gate.sentence}: {gate.raised.format(gate.needed)}, or allow more"
        for gate in gate_questions(gates, evaluation, test_rows)
        if gate.unseen and gate.needed is not None
    )


def _expected(margin: float, gates: GatesSpec) -> int:
    """Return the questions expected of a task that may not fall; one that must get better is taken to be
    asked everything.
    """
    if not margin:
        return MOST_QUESTIONS
    return math.ceil(expected_questions(margin, alpha=level_of(gates.alpha)))


def asking_in_batches(
    gates: GatesSpec, evaluation: EvaluationSpec, seconds_per_question: float | None = None
) -> tuple[str, ...]:
    """Say what `evaluation.limit: auto` comes to, in a sentence; nothing where it is not declared.

    `seconds_per_question`: of one model, as an evaluation before took; None: unknown.
    """
    if evaluation.limit != "auto":
        return ()
    tasks, each = 1 + len(evaluation.general), _expected(gates.general_margin, gates)
    expected = _expected(gates.task_margin, gates) + each * len(evaluation.general)
    time = " (how long that takes, the first evaluation on this base tells)"
    if seconds_per_question is not None:
        time = f", about {math.ceil(expected * seconds_per_question / 60)} minutes"
    own = "" if gates.task_margin else ", the task by how much it got better"
    return (
        f"evaluation.limit: auto asks a model that lost nothing about {each:,} questions of each benchmark "
        f"({DISCORDANT:.0%} of the answers differing){own}: up to {expected:,} in all{time}; at most "
        f"{MOST_QUESTIONS:,} of each of {tasks} tasks, which the base is asked once",
    )


def _gate(
    name: str, margin: float, asked: int | None, benchmarks: int, alpha: float, *, few: bool = False
) -> GateQuestions:
    """Describe one gate's questions. `few`: there are no more than are asked, all of the variant's test
    split.
    """
    if margin == 0:
        sentence = (
            f"gates.{name} is 0: it must be shown to be better, and how many questions that takes depends on "
            "by how much it is"
        )
        return GateQuestions(name, margin, None, asked, sentence)
    power = POWER ** (1 / benchmarks)
    test = PairedTest(power=power, alpha=alpha)
    needed = test.questions_needed(margin)
    each = f" in each of {benchmarks} benchmarks" if benchmarks > 1 else ""
    sentence = (
        f"gates.{name} of {100 * margin:g} points needs {needed:,} questions{each} "
        f"({DISCORDANT:.0%} of the answers differing, power {POWER:g}{' for all together' if each else ''})"
    )
    if asked is not None and asked < needed:
        seen = 100 * test.margin_seen(asked)
        by = f"{asked:,} test rows" if few else f"evaluation.limit of {asked:,}"
        sentence += f"; {by} can show {seen:.1f} points"
    if few:
        return GateQuestions(name, margin, needed, asked, sentence, "give as many test rows")
    return GateQuestions(name, margin, needed, asked, sentence)


def measured_evaluation(questions: int, seconds_per_question: float, usd_per_hour: float | None) -> Spent:
    """Compute the cost of asking `questions` (all tasks together) of one model, as long as an evaluation here
    took: the base's answers are kept by then. Its FLOPs are not counted.
    """
    hours = questions * seconds_per_question / 3600
    return Spent(0.0, hours, None if usd_per_hour is None else hours * usd_per_hour, _MEASURED)


def evaluation_cost(
    questions: int,
    tokens_per_question: float,
    parameters: int,
    *,
    peak_flops: float | None,
    usd_per_hour: float | None,
) -> Spent:
    """Compute the cost of asking `questions` (all tasks together) of the base and of the tuned model, on one
    GPU.

    2 FLOPs a parameter and token, forward alone. Answers that are generated token by token take longer than
    this.
    """
    return training_cost(
        2 * 2.0 * parameters * tokens_per_question,
        questions,
        gpus=1,
        peak_flops=peak_flops,
        usd_per_hour=usd_per_hour,
        utilization=_SCORING,
    )


@dataclass(frozen=True)
class Storage:
    """Holds the bytes kept and what they cost a month."""

    checkpoints_bytes: int  # while one training runs
    artifacts_bytes: int  # all variants, and the base once where they share it
    usd_per_month: float  # of both

    @property
    def gigabytes(self) -> float:
        """Return what stays when trainings are over, in GB."""
        return self.artifacts_bytes / 1e9


def storage_cost(
    method: str,
    trained: int,
    base_bytes: int,
    *,
    variants: int = 1,
    checkpoints: int = 6,
    merged: bool = False,
) -> Storage:
    """Compute the storage of all `variants` of one base. `checkpoints`: complete ones that one training keeps
    at most.

    A whole model is 2 bytes a parameter (bf16), an adapter 4 bytes a trained one (fp32) beside one base; a
    merged export is a base each, and keeps its adapter, since merging cannot be undone. A checkpoint that a
    training resumes from exactly is 12 bytes a trained parameter (fp32 master, two moments), not the 2 of the
    weights alone.
    """
    freezes = method_of(method).freezes
    adapter = adapter_bytes(trained) if freezes else 0
    if not freezes:
        artifacts = 2 * trained * variants
    elif merged:
        artifacts = (base_bytes + adapter) * variants
    else:
        artifacts = base_bytes + adapter * variants
    kept = RESUME_BYTES * trained * checkpoints
    return Storage(kept, artifacts, (kept + artifacts) / 1e9 * STORAGE_USD_PER_GB_MONTH)


@dataclass(frozen=True)
class Experiments:
    """Counts the trainings before a production candidate; days of the machine alone. None where not known."""

    runs: tuple[int, int]
    days: tuple[float, float] | None
    usd: tuple[float, float] | None

    @property
    def middle_days(self) -> float | None:
        return None if self.days is None else sum(self.days) / 2


def experiments(training: Spent, evaluation: Spent | None = None) -> Experiments:
    """Estimate 10 to 20 trainings, one after the other, each judged. Without the hours that people need."""
    parts = [training] if evaluation is None else [training, evaluation]
    hours = [part.hours for part in parts if part.hours is not None]
    usd = [part.usd for part in parts if part.usd is not None]
    low, high = EXPERIMENTS
    whole = sum(hours) / 24, sum(usd)
    days = (low * whole[0], high * whole[0]) if len(hours) == len(parts) else None
    return Experiments(
        EXPERIMENTS, days, (low * whole[1], high * whole[1]) if len(usd) == len(parts) else None
    )
