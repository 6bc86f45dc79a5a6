"""What a call costs: regrets of ways to choose method and rate, from the cells of the bench of decisions.

Pure functions over what was measured. The best of a grid has the lowest loss on one half of the unseen rows,
of those that forget no more than is allowed; what a probe takes is the plan's own rule over validation rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tables import dots, markdown
from ft_dagster.planning.methods.question import ProbeCost
from ft_dagster.planning.paired_losses import difference
from ft_dagster.planning.probe import LONGER, ProbePlan
from ft_dagster.planning.trials import Arm, TriedArm, conclude, finalists
from ft_dagster.training.watch.rate import Verdict, judged, looked_at

NARROW = ("task_specific", "domain_knowledge")
RESAMPLES, SEED = 10_000, 0
WARMUP = 0.03  # of the plans
VALIDATION, CHOSEN_ON, SCORED_ON = "validation", "chosen_on", "scored_on"  # parts that losses are of


class Cell(NamedTuple):
    """One training: `steps` of it, None for as many as the plan says, 0 for the base itself."""

    arm: Arm
    steps: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is held against others: the base is, a short training of a probe is not."""
        return not self.steps

    def __str__(self) -> str:
        return "the base" if self.steps == 0 else f"{self.arm}{f', {self.steps} steps' if self.steps else ''}"


BASE = Cell(Arm("lora", 2e-4), 0)  # the same whatever arm it is measured for


@dataclass(frozen=True)
class Question:
    """A task's rows of one seed, prepared. `unseen`: a mixture of rows that none is trained on.
    `plans`: method -> {method, training} as the plan resolves them; `auto`: what it takes by itself;
    `limit`: of the rise of general loss, nats a token.
    """

    task: str
    objective: str
    seed: int
    base: str
    base_digest: str
    mixture: str
    mixture_digest: str
    unseen: str
    unseen_digest: str
    plans: Mapping[str, Mapping[str, Any]]
    auto: Arm
    probes: Mapping[str, ProbePlan]
    limit: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Question:
        probes = {name: _planned(each) for name, each in content["probes"].items()}
        return cls(**{**content, "auto": Arm(*content["auto"]), "probes": probes})


@dataclass(frozen=True)
class Measured:
    """The result of a cell. `asked`: its steps, as `Cell` has them; `losses`: part -> (nats a token, how many
    examples), of "validation" and "general", of whole trainings "chosen_on" and "scored_on" too; `failed`:
    why there are none. `examples`: (nats, tokens) of each. Seconds are CPU time. `curve`: of each step.
    """

    task: str
    seed: int
    method: str
    learning_rate: float
    asked: int | None
    steps: int
    losses: Mapping[str, Sequence[float]]
    failed: str | None
    flops: float | None
    training_seconds: float
    measuring_seconds: float
    curve: Sequence[float] = ()
    examples: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.training_seconds + self.measuring_seconds

    def __str__(self) -> str:
        if self.failed:
            return self.failed
        said = ", ".join(f"{name} {loss:.3f}" for name, (loss, _) in self.losses.items())
        return f"{said} ({self.steps} steps, {self.seconds:.0f} CPU s)"


Known = Mapping[Cell, Measured]


class Choice(NamedTuple):
    """What one way to choose came to on one question. `low`, `high`: 95% of the regret, paired by the rows
    that it is scored on; None where it took the best, or that is not known. `over`: past the limit of general
    loss.
    """

    arm: Arm
    regret: float
    over: bool
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Regrets:
    """Of one question: by the name of the way to choose. `best`: of the grid. `costs`: of probes, CPU seconds
    of their trainings; `once`: those of the training that they are for.
    """

    task: str
    seed: int
    best: Arm
    choices: Mapping[str, Choice]
    costs: Mapping[str, float]
    once: float


def first_round(question: Question, probe: str) -> list[Cell]:
    planned = question.probes[probe]
    return [Cell(arm, None if planned.wholly else planned.steps_of(arm)) for arm in planned.arms]


def second_round(question: Question, probe: str, known: Callable[[Cell], Measured | None]) -> Iterator[Cell]:
    """The best of the first, for longer; none before all of that is measured."""
    first, base, planned = first_round(question, probe), known(BASE), question.probes[probe]
    measured = [known(cell) for cell in first]
    if base is None or None in measured or planned.wholly:
        return
    tried = [_tried(each, base, VALIDATION, planned) for each in measured if each is not None]
    for arm in finalists(tried, question.limit):
        yield Cell(arm, planned.steps_of(arm, LONGER))


def regrets(question: Question, grid: Sequence[Arm], known: Known) -> Regrets:
    """Of every way to choose on this question, whose grid is known; of a probe, and of a rule, where its
    trainings are, that of the arm which it takes among them.
    """
    base = known[BASE]
    whole = {cell.arm: each for cell, each in known.items() if cell.steps is None}
    best = _best([[_tried(whole[arm], base, CHOSEN_ON) for arm in grid]], question.limit)
    asked = {"auto": question.auto, "folk rule": folk(question), **{f"always {arm}": arm for arm in grid}}
    named, costs = {name: arm for name, arm in asked.items() if arm in whole}, {}
    for probe, planned in question.probes.items():
        first = first_round(question, probe)
        second = list(second_round(question, probe, known.get))
        if not {*first, *second} <= known.keys():
            continue
        cells = [each for each in (first, second) if each]
        rounds = [[_tried(known[cell], base, VALIDATION, planned) for cell in each] for each in cells]
        taken = _best(rounds, question.limit, wholly=planned.wholly) if rounds else question.auto
        if taken not in whole:  # at a rate beside the grid
            continue
        named[f"auto, {probe}"] = taken
        costs[f"auto, {probe}"] = sum(known[cell].training_seconds for cell in (*first, *second))
    choices = {name: _choice(whole, arm, best, base, question.limit) for name, arm in named.items()}
    once = whole[question.auto].training_seconds
    return Regrets(question.task, question.seed, best, choices, costs, once)


def folk(question: Question) -> Arm:
    """As it is often repeated: all weights for facts and for one narrow task, else LoRA."""
    return Arm("full", 2e-5) if question.objective in NARROW else Arm("lora", 2e-4)


def tables(found: Sequence[Regrets], of: int) -> str:
    """A row for each way to choose, then one for each question. `of`: questions of the whole bench."""
    names, rows = sorted(_ways(found), key=lambda name: float(np.mean(_all(found, name)))), []
    for name in names:
        there = [each for each in found if name in each.choices]
        low, high = interval(there, name)
        worst = max(there, key=lambda each: each.choices[name].regret)
        task, of_task, about = worst_task(there, name)
        over = sum(each.choices[name].over for each in there)
        rows.append(
            [
                name, str(len(there)), f"{mean_of_tasks(there, name):.1%} ({low:.1%} to {high:.1%})",
                f"{_with_interval(worst.choices[name])} ({worst.task}, seed {worst.seed})",
                f"{task}: {of_task:.1%} ({about})", f"{over}", _cost(there, name),
            ]
        )  # fmt: skip
    head = (
        "chosen by",
        "questions",
        "regret, mean (95%)",
        "at the worst (95%, paired by row)",
        "worst task, mean of its seeds (95%, t over them)",
        "past the limit",
        "cost: trainings like its own, CPU minutes",
    )
    shown = [name for name in _ways(found) if name.startswith("auto")]
    each = [[one.task, str(one.seed), str(one.best), *(_said(one, name) for name in shown)] for one in found]
    ways = ("task", "seed", "best of the grid", *shown)
    return f"{len(found)} of {of} questions\n\n{markdown(head, rows)}\n{markdown(ways, each)}"


def _cost(found: Sequence[Regrets], name: str) -> str:
    there = [each for each in found if name in each.costs]
    if not there:
        return ""
    times = np.mean([each.costs[name] / each.once for each in there])
    return f"{times:.1f}, {np.mean([each.costs[name] for each in there]) / 60:.1f}"


def _with_interval(choice: Choice) -> str:
    about = "" if choice.low is None else f" ({choice.low:.1%} to {choice.high:.1%})"
    return f"{choice.regret:+.1%}{about}"


def alarms(known: Sequence[tuple[Measured, Measured]]) -> str:
    """What the first steps said of each rate, and how its trainings ended. `known`: (whole, its base)."""
    rows = []
    for arm in dict.fromkeys(Arm(each.method, each.learning_rate) for each, _ in known):
        of_arm = [(each, base) for each, base in known if Arm(each.method, each.learning_rate) == arm]
        said = [verdict_of(each, base) for each, base in of_arm]
        worse = [each.failed is not None or _part(each) > _part(base) for each, base in of_arm]
        ends = zip(said, worse, strict=True)
        false = sum(verdict == "too high" and not above for verdict, above in ends)
        counts = (len(said), said.count("too high"), sum(worse), false, said.count("too low"))
        rows.append([str(arm), *map(str, counts)])
    head = ("rate", "trainings", "said too high", "ended above the base", "said wrongly", "said too low")
    return markdown(head, rows)


def verdict_of(each: Measured, base: Measured) -> Verdict | None:
    """At the step at which the trainer asks; a loss that is not finite is caught by itself."""
    at = looked_at(each.steps, WARMUP)
    if each.failed:
        return "too high"
    return judged(each.curve[:at], _part(base)) if at is not None else None


def _part(each: Measured) -> float:
    return each.losses[CHOSEN_ON][0]


def mean_of_tasks(found: Sequence[Regrets], name: str) -> float:
    """The mean regret, each task counting alike however many of its seeds there are."""
    return float(np.mean([np.mean(values) for values in _by_task(found, name).values()]))


def interval(found: Sequence[Regrets], name: str) -> tuple[float, float]:
    """95% of `mean_of_tasks`, tasks drawn anew: the seeds of one task are alike."""
    means = np.array([np.mean(values) for values in _by_task(found, name).values()])
    drawn = np.random.default_rng(SEED).integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.quantile(means[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def worst_task(found: Sequence[Regrets], name: str) -> tuple[str, float, str]:
    """The task of the largest mean regret, that mean, and its interval in words.

    The largest regret of a question has that of its own rows: drawn anew, the questions never exceed it.
    """
    from scipy.stats import t

    by_task = _by_task(found, name)
    task = max(by_task, key=lambda each: np.mean(by_task[each]))
    values = by_task[task]
    mean, seeds = float(np.mean(values)), len(values)
    if seeds == 1:
        return task, mean, "one seed"
    half = float(t.ppf(0.975, seeds - 1) * np.std(values, ddof=1) / np.sqrt(seeds))
    return task, mean, f"{mean - half:.1%} to {mean + half:.1%}"


def _by_task(found: Sequence[Regrets], name: str) -> dict[str, list[float]]:
    by_task: dict[str, list[float]] = {}
    for each in found:
        by_task.setdefault(each.task, []).append(each.choices[name].regret)
    return by_task


def plot(found: Sequence[Regrets], file: Path) -> None:
    """Each question's regret by the way to choose."""
    names = sorted(_ways(found), key=lambda name: float(np.mean(_all(found, name))), reverse=True)
    dots(
        file,
        "Regret of each choice",
        "excess of the held-out loss, %",
        {n: _all(found, n, 100) for n in names},
    )


def _planned(content: Mapping[str, Any]) -> ProbePlan:
    arms = tuple(Arm(*arm[:2]) for arm in content["arms"])  # with a rank, and ranks, as older runs kept it
    cost = ProbeCost(*content.get("cost", ()))
    plain = {name: value for name, value in content.items() if name != "ranks"}
    return ProbePlan(**{**plain, "arms": arms, "cost": cost})


def _all(found: Sequence[Regrets], name: str, times: float = 1) -> list[float]:
    return [times * each.choices[name].regret for each in found if name in each.choices]


def _ways(found: Sequence[Regrets]) -> list[str]:
    return list(dict.fromkeys(name for each in found for name in each.choices))


def _said(one: Regrets, name: str) -> str:
    choice = one.choices.get(name)
    return "" if choice is None else f"{choice.arm}: {_with_interval(choice)}"


def _best(rounds: Sequence[Sequence[TriedArm]], limit: float, *, wholly: bool = False) -> Arm:
    result = conclude(rounds, limit, wholly=wholly)
    assert result.method is not None
    assert result.learning_rate is not None
    return Arm(result.method, result.learning_rate)


def _choice(whole: Mapping[Arm, Measured], arm: Arm, best: Arm, base: Measured, limit: float) -> Choice:
    """Where a training diverged its team has the base."""
    taken = base if whole[arm].failed else whole[arm]
    scored, least = (each.losses[SCORED_ON][0] for each in (taken, whole[best]))
    rise = _rise(whole[arm], base)
    over = rise is not None and rise > limit
    one, other = (each.examples.get(SCORED_ON, ()) for each in (taken, whole[best]))
    found = None if arm == best else difference(one, other, len(one))
    about = (None, None) if found is None else (found.low / least, found.high / least)
    return Choice(arm, scored / least - 1, over, *about)


def _tried(each: Measured, base: Measured, part: str, planned: ProbePlan | None = None) -> TriedArm:
    """As measured on that part of the rows. `planned`: the probe that the training is of."""
    if each.failed:
        return TriedArm(each.method, each.learning_rate, each.steps, {}, failed=each.failed)
    loss, count = each.losses[part]
    validation, rise = {str(int(count)): loss}, _rise(each, base)
    arm = TriedArm(each.method, each.learning_rate, each.steps, validation, rise, each.flops)
    if planned is None:
        return arm
    apart = tuple((loss, int(tokens)) for loss, tokens in each.examples.get(part, ()))
    return replace(arm, examples=apart, whole=planned.whole_of(arm.arm))


def _rise(each: Measured, base: Measured) -> float | None:
    return None if each.failed else each.losses["general"][0] - base.losses["general"][0]
