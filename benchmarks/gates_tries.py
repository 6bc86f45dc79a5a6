"""How often a wrong model is released over many tries: per count, in a year of weekly retrains, by a sweep.

    python -m benchmarks.gates --tries

Draws the changes of answers and losses of models that fell by the margin, and of models that did not change,
and judges them by the gate's own test: at the level of a first try each time, as weights by weights were
counted, and at the level of try k since the last release. After a release, those that lost before are asked
again: in part the same, and the same against the version that is in production now. Prints the tables of
benchmarks/notes/tries.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.gates import FAMILIES, TRIALS, Family, answers, table
from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import ALPHA, level_of

SEED, WEEKS, SWEPT = 20261201, 52, 20
COUNTS = (55, 200, 1000)  # questions there are
FLAKY = (0.1, 0.2, 0.4)  # of the questions, so many are answered by chance, by each version anew
RELEASES = (1, 2, 5, 10)  # in each of so many counts a model lost and the next was released
SHARED = (1.0, 0.9, 0.5, 0.0)  # of the questions that losers are asked again, so many are the same
TRIED: tuple[Family, ...] = (
    answers(0.05, 0.15),
    answers(0.15, 0.25),
    *(family for family in FAMILIES if family.name.startswith("json_f1, one in ten")),
    *(family for family in FAMILIES if family.name.startswith("json_f1, fields")),
    *(family for family in FAMILIES if family.name.startswith("loss, 5% by 2 nats")),
)
RULES = ("former", "now")
LEVELS = np.array([level_of(ALPHA, k) for k in range(1, WEEKS + 1)])


class Years(NamedTuple):
    """Shares: of years with a wrong release where every retrain fell by the margin, by the former rule and by
    the shared level; of counts, from one release to the next, that end in a wrong one where half of the
    retrains fell; of sweeps whose winner passes, chosen by the judging questions and by others; of unchanged
    models that pass at the first try, and within a year.
    """

    former: float
    shared: float
    counts: float
    mixed: float
    sweep_former: float
    sweep: float
    first: float
    year: float


def p_values(family: Family, questions: int, trials: int, *, fallen: bool) -> np.ndarray:
    """The p of each retrain against a fall of the margin, and its mean change: shape [2, trials, WEEKS]."""
    draw = np.random.default_rng((SEED, questions, int(1000 * family.margin), fallen))
    counts = draw.multinomial(questions, family.falls if fallen else family.equal, (trials, WEEKS))
    return np.stack([p_of(family, counts), counts @ np.array(family.values) / questions])


def p_of(family: Family, counts: np.ndarray) -> np.ndarray:
    """The p against a fall of the margin, where so many changes have each value: shape [..., values]."""
    distinct, at = np.unique(counts.reshape(-1, counts.shape[-1]), axis=0, return_inverse=True)
    changes = np.broadcast_to(np.array(family.values) + family.margin, distinct.shape)
    p = mean_p(changes, np.full(len(distinct), family.bound - family.margin), distinct)
    return p[at.ravel()].reshape(counts.shape[:-1])


def again(family: Family, questions: int, shared: float, trials: int = TRIALS) -> tuple[float, float]:
    """Of counts in which SWEPT models fell by the margin, none passed, and another was released, the shares
    whose next one ends in the release of one of them: where they begin at the first try there, as they did
    formerly, and where they come after the tries of their own count. They are asked the best first.
    """
    draw = np.random.default_rng((SEED, questions, int(1000 * family.margin), int(100 * shared)))
    same = round(questions * shared)
    common, then, now = (
        draw.multinomial(asked, family.falls, (trials, SWEPT))
        for asked in (same, questions - same, questions - same)
    )
    before = p_of(family, common + then)
    asked = np.take_along_axis(p_of(family, common + now), before.argsort(axis=1), axis=1)
    lost = (before >= LEVELS[:SWEPT]).all(axis=1)
    found = [(asked < levels)[lost].any(axis=1) for levels in (LEVELS[:SWEPT], LEVELS[SWEPT + 1 :][:SWEPT])]
    former, after = (float(each.mean()) for each in found)
    return former, after


def held_again(
    questions: int, flaky: float, trials: int = TRIALS, releases: Sequence[int] = RELEASES
) -> list[tuple[float, float]]:
    """In each count a model that fell by 5 points lost at its first try, and the second was released. After
    so many counts all that lost are asked the same questions against the newest version: the shares in which
    one passes, each at the first try that it was, as formerly, and each after all tries since its own count.
    """
    family, draw = answers(0.05, 0.15), np.random.default_rng((SEED, questions, int(100 * flaky)))
    is_flaky = draw.random((trials, questions)) < flaky

    def version(fall: float = 0.0) -> np.ndarray:
        sure = draw.random((trials, questions)) >= fall / (1 - flaky)
        return np.where(is_flaky, draw.random((trials, questions)) < 0.5, sure)

    def p(model: np.ndarray, production: np.ndarray) -> np.ndarray:
        change = model.astype(np.int8) - production
        return p_of(family, np.stack([(change == value).sum(axis=1) for value in family.values], axis=-1))

    lost, standing, losers, found = (
        np.full(trials, True),
        version(),
        list[np.ndarray](),
        list[tuple[float, float]](),
    )
    for count in range(1, max(releases) + 1):
        loser = version(family.margin)
        lost &= p(loser, standing) >= LEVELS[0]
        losers.append(loser)
        standing = version()
        if count in releases:
            again = np.stack([p(each, standing) for each in losers], axis=-1)[lost]
            tries = [2 * (count - number) + number for number in range(count)]
            found.append(
                (
                    float((again < LEVELS[0]).any(axis=1).mean()),
                    float((again < LEVELS[tries]).any(axis=1).mean()),
                )
            )
    return found


def years(family: Family, questions: int, trials: int = TRIALS) -> Years:
    """Retrains are independent of each other: of all that keep the margin these pass most often."""
    (bad, gain), (good, _) = (p_values(family, questions, trials, fallen=fell) for fell in (True, False))
    best = gain[:, :SWEPT].argmax(axis=1)  # by the questions that judge
    chosen, (counts, mixed) = bad[np.arange(trials), best], _wrong_counts(bad, good)
    return Years(
        former=float((bad < LEVELS[0]).any(axis=1).mean()),
        shared=float((bad < LEVELS).any(axis=1).mean()),
        counts=counts,
        mixed=mixed,
        sweep_former=float((chosen < LEVELS[0]).mean()),
        sweep=float((bad[:, SWEPT] < LEVELS[0]).mean()),  # its own questions know nothing of the choice
        first=float((good[:, 0] < LEVELS[0]).mean()),
        year=float((good < LEVELS).any(axis=1).mean()),
    )


def _wrong_counts(bad: np.ndarray, good: np.ndarray) -> tuple[float, float]:
    """The share of counts that end in a wrong release, and of years that have one; a release closes a count,
    and the next begins at try 1.
    """
    trials = len(bad)
    fell = np.random.default_rng(SEED).random(bad.shape) < 0.5
    number, begun, wrong = np.zeros(trials, int), 0, np.zeros(trials, int)
    for week in range(WEEKS):
        begun += int((number == 0).sum())
        passed = np.where(fell[:, week], bad[:, week], good[:, week]) < LEVELS[number]
        wrong += passed & fell[:, week]
        number = np.where(passed, 0, number + 1)
    return float(wrong.sum() / begun), float((wrong > 0).mean())


def rows(trials: int = TRIALS, counts: Sequence[int] = COUNTS) -> list[tuple[Family, int, Years]]:
    """Each family with each number of questions; groups are not drawn."""
    return [(family, n, years(family, n, trials)) for family in TRIED for n in counts]


def main() -> None:
    print(f"A fall of the margin, level {ALPHA:.0%}, {TRIALS:,} years of {WEEKS} retrains a row\n")
    heads = (
        "family", "margin", "questions", "year, former", "year", "count", "year, half fell",
        f"best of {SWEPT}, former", f"best of {SWEPT}", "unchanged: first try", "unchanged: within a year",
    )  # fmt: skip
    table(
        heads,
        [
            [family.name, f"{family.margin:g}", f"{n:,}", *(f"{share:.1%}" for share in found)]
            for family, n, found in rows()
        ],
    )
    print(f"\n{SWEPT} models that lost are asked again after a release, in part the same\n")
    table(
        ("family", "questions", *(f"{share:.0%} the same, {rule}" for share in SHARED for rule in RULES)),
        [
            [family.name, f"{n:,}", *(f"{each:.2%}" for share in SHARED for each in again(family, n, share))]
            for family in TRIED
            for n in COUNTS[1:]
        ],
    )
    print(
        "\nModels that lost before so many releases are held against the newest version, the same questions\n"
    )
    table(
        ("answered by chance", "questions", *(f"{n} releases, {rule}" for n in RELEASES for rule in RULES)),
        [
            [f"{flaky:.0%}", f"{n:,}", *(f"{each:.2%}" for found in held_again(n, flaky) for each in found)]
            for flaky in FLAKY
            for n in COUNTS[1:]
        ],
    )


if __name__ == "__main__":
    main()
