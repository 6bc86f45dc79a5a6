"""How often the sequential gate errs, and how many questions it asks: `evaluation.limit: auto` by simulation.

    .venv/bin/python benchmarks/sequential.py

Draws changes of answers and losses, batch after batch, and lets the looks of the gate decide
(`ft_dagster/gate/sequential_looks.py`). Prints the tables of
benchmarks/notes/gates-in-batches.md in a minute. `--ladders` compares other ladders of
batches and other ways to share the level.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ft_dagster.gate import sequential_looks as gate
from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import ALPHA, level_of
from ft_dagster.gate.paired import harm_of_answers
from ft_dagster.gate.power import LOSS_BOUND, PairedTest, least_questions
from ft_dagster.gate.sequential_looks import Look, looks_of
from ft_dagster.spec.variant import MOST_QUESTIONS

TRIALS, SEED, RULES = 10_000, 20240229, 4
LEVEL = level_of(ALPHA)
Ladder = Callable[[int, int], tuple[Look, ...]]


@dataclass(frozen=True)
class Changes:
    """Changes of one unit, positive where better: its values, their shares where nothing fell and where as
    much fell as the margin allows. `size`: questions of a unit, which all change alike.
    """

    name: str
    values: tuple[float, ...]
    equal: tuple[float, ...]
    fallen: tuple[float, ...]
    margin: float
    bound: float = 1.0
    size: int = 1
    there: int = MOST_QUESTIONS

    def shares(self, fall: float) -> np.ndarray:
        """Of a fall of so many margins, 0 to 1 or, mirrored, -1: as much better."""
        equal, fallen = np.array(self.equal), np.array(self.fallen)
        return equal + fall * (fallen - equal)


def answers(differ: float, margin: float, *, size: int = 1, there: int = MOST_QUESTIONS) -> Changes:
    """Right or wrong answers, of which a share differs."""
    half, tilt = differ / 2, margin / 2
    name = f"answers, {100 * differ:g}% differ"
    name += f", groups of {size}" if size > 1 else "" if there == MOST_QUESTIONS else f", {there} there are"
    return Changes(
        name,
        (-1, 1, 0),
        (half, half, 1 - differ),
        (half + tilt, half - tilt, 1 - differ),
        margin,
        size=size,
        there=there,
    )


USUAL = (
    answers(0.05, 0.05),
    answers(0.10, 0.05),
    answers(0.20, 0.05),
    answers(0.15, 0.10),
    answers(0.10, 0.03),
)
LUMPY = (
    Changes("json_f1, one in 20 answers breaks", (-1, 0), (0, 1), (0.05, 0.95), 0.05),
    Changes(
        "json_f1, fields lost and won",
        (-1, -0.5, 0, 0.5), (0.02, 0.05, 0.84, 0.09), (0.08, 0.1, 0.76, 0.06), 0.1,
    ),
    Changes("loss, 5% of the texts by 2 nats", (-2, 0), (0, 1), (0.05, 0.95), 0.1, LOSS_BOUND, there=200),
    Changes(
        "loss, 5% by 2 nats, the rest by 0.05",
        (-2, -0.05, 0.05), (0, 0.5, 0.5), (0.05, 0.475, 0.475), 0.1, LOSS_BOUND, there=200,
    ),
    Changes("loss, 1 nat on 10%", (-1, 0), (0, 1), (0.1, 0.9), 0.1, LOSS_BOUND, there=200),
    answers(0.15, 0.15, size=4),
    answers(0.15, 0.15, size=10),
    answers(0.15, 0.10, there=200),
    answers(0.15, 0.10, there=570),
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Shares of the trials that passed and failed, and the questions asked in the mean."""

    passed: float
    failed: float
    questions: float


def simulate(
    changes: Changes, fall: float, *, trials: int = TRIALS, rules: int = RULES, ladder: Ladder = looks_of
) -> Asked:
    """Ask models that fell by so many margins until the rule is decided, among `rules` of a verdict.

    A rule fails here by Bonferroni's adjustment, which ends the asking; Holm's, of the verdict, is never
    stricter.
    """
    draw = np.random.default_rng((SEED, int(1000 * changes.margin), changes.size, int(10 * (fall + 2))))
    values, shares = np.array(changes.values), changes.shares(fall)
    looks = ladder(changes.there, least_questions(changes.margin, bound=changes.bound, alpha=LEVEL))
    counts, before = np.zeros((trials, len(values)), int), 0
    harm, passed, failed = np.ones(trials), np.zeros(trials, bool), np.zeros(trials, bool)
    asked = np.full(trials, float(changes.there))
    for look in looks:
        units = look.questions // changes.size
        counts += draw.multinomial(units - before, shares, trials)
        before = units
        distinct, at = np.unique(counts, axis=0, return_inverse=True)
        at = at.ravel()
        measured = distinct @ values / units
        spread = distinct @ values**2 / units - measured**2
        grid = np.broadcast_to(values + changes.margin, distinct.shape)
        p = mean_p(grid, np.full(len(distinct), changes.bound - changes.margin), distinct)
        passes = (p < LEVEL * look.share) & (-measured <= changes.margin + 1e-9)
        harm = np.minimum(harm, _harm(distinct, values)[at] / look.share)
        open_ = ~(passed | failed)
        passed |= open_ & passes[at]
        shown = open_ & ~passed & (harm < ALPHA / rules)
        if look != looks[-1]:
            may = _may_pass(changes, looks[-1])
            on = [may(m, s) if f else True for m, s, f in zip(measured[at], spread[at], shown, strict=True)]
            shown &= ~np.array(on)
        failed |= shown
        asked[open_ & (passed | failed)] = look.questions
    return Asked(float(passed.mean()), float(failed.mean()), float(asked.mean()))


def _may_pass(changes: Changes, last: Look) -> Callable[[float, float], bool]:
    @cache
    def may(measured: float, spread: float) -> bool:
        test = PairedTest(spread, changes.bound, alpha=LEVEL * last.share)
        return test.would_show(changes.margin + measured, last.questions / changes.size)

    return may


def _harm(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """p of no fall: McNemar's of units that all change by the same amount; of others of signs alone."""
    return harm_of_answers(counts[:, values > 0].sum(axis=1), counts[:, values < 0].sum(axis=1))


def fixed(changes: Changes, power: float) -> int:
    """Questions that a single look at the whole level asks for this power where nothing fell."""
    values, equal = np.array(changes.values), np.array(changes.equal)
    spread = float(equal @ values**2 - (equal @ values) ** 2)
    test = PairedTest(spread, changes.bound, min(power, 0.999), LEVEL)
    return test.questions_needed(changes.margin) * changes.size


def usual(trials: int = TRIALS, ladder: Ladder = looks_of) -> list[tuple[Changes, dict[float, Asked], int]]:
    """Of answers: by fall (in margins: none, half of it, all of it), and the questions that one look asks for
    the same power.
    """
    rows = []
    for changes in USUAL:
        found = {fall: simulate(changes, fall, trials=trials, ladder=ladder) for fall in (0.0, 0.5, 1.0)}
        rows.append((changes, found, fixed(changes, found[0.0].passed)))
    return rows


def levels(trials: int = TRIALS) -> list[tuple[Changes, Asked, Asked]]:
    """Of each family: where as much fell as the margin, and where nothing did."""
    return [
        (each, simulate(each, 1.0, trials=trials), simulate(each, 0.0, trials=trials))
        for each in (*USUAL, *LUMPY)
    ]


def savings(rows: Sequence[tuple[Changes, dict[float, Asked], int]]) -> tuple[float, float]:
    """Questions asked, as a share of those that one look asks: the mean where nothing fell, and where as much
    fell as the margin.
    """
    shares = [[found[fall].questions / one for fall in (0.0, 1.0)] for _, found, one in rows]
    equal, fallen = np.mean(shares, axis=0)
    return float(equal), float(fallen)


def equal_verdicts(trials: int = TRIALS) -> list[tuple[float, float]]:
    """(differ, verdicts that fail) of models equal to their base: four benchmarks, margin 5 points."""
    rows = []
    for differ in (0.05, 0.10, 0.20):
        (one,) = [changes for changes in USUAL if changes == answers(differ, 0.05)]
        failed = simulate(one, 0.0, trials=trials).failed
        rows.append((differ, 1 - (1 - failed) ** RULES))
    return rows


def ladders(trials: int = 2000) -> None:
    """Other batches and other ways to share the level: questions as shares of those of one look."""
    tried = {
        "twice as many": (50, 100, 200, 400, 800),
        "1.7 times": (50, 85, 150, 250, 425, 725, 1200),
        "1.5 times": gate.RUNGS[:-1],
    }
    rows = []
    for name, rungs in tried.items():
        for power in (0.0, 0.5, 1.0):
            equal, fallen = savings(usual(trials, _ladder(rungs, power)))
            rows.append([name, f"{power:g}", f"{equal:.0%}", f"{fallen:.0%}"])
    table(("batches", "shares as n to the power of", "nothing fell", "the margin fell"), rows)


def _ladder(rungs: Sequence[int], power: float) -> Ladder:
    def looks(there: int, least: int) -> tuple[Look, ...]:
        kept = [n for n in rungs if least <= n <= gate.LAST_STEP * there] + [there]
        total = sum(n**power for n in kept)
        return tuple(Look(n, n**power / total) for n in kept)

    return looks


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_all() -> None:
    print(f"Questions asked, level {LEVEL:.1%}, {TRIALS:,} pairs a row, {MOST_QUESTIONS:,} at most\n")
    rows = usual()
    table(
        (
            "family", "margin", "passes", "asked", "one look", "share",
            "half fell: passes", "fails", "asked", "margin fell: passes", "fails", "asked", "share",
        ),
        [
            [
                changes.name, f"{100 * changes.margin:g}", f"{found[0].passed:.1%}",
                f"{found[0].questions:,.0f}", f"{one:,}", f"{found[0].questions / one:.0%}",
                f"{found[0.5].passed:.1%}", f"{found[0.5].failed:.1%}", f"{found[0.5].questions:,.0f}",
                f"{found[1].passed:.1%}", f"{found[1].failed:.1%}", f"{found[1].questions:,.0f}",
                f"{found[1].questions / one:.0%}",
            ]
            for changes, found, one in rows
        ],
    )  # fmt: skip
    equal, fallen = savings(rows)
    print(f"\nIn the mean {equal:.0%} where nothing fell, {fallen:.0%} where the margin fell\n")
    heads = ("family", "margin", "there are", "margin fell: passes", "nothing fell: passes", "fails", "asked")
    shown = [
        [
            each.name, f"{each.margin:g}", f"{each.there:,}", f"{fallen.passed:.1%}", f"{equal.passed:.1%}",
            f"{equal.failed:.1%}", f"{equal.questions:,.0f}",
        ]
        for each, fallen, equal in levels()
    ]  # fmt: skip
    table(heads, shown)
    print("\nVerdicts of four benchmarks that did not fall\n")
    table(("differ", "fail"), [[f"{differ:.0%}", f"{failed:.1%}"] for differ, failed in equal_verdicts()])


if __name__ == "__main__":
    ladders() if "--ladders" in sys.argv else print_all()
