"""How often the interval of the membership AUC misses, and a model that learned nothing fails.

    python -m benchmarks.gates --membership [DRAWS]

Draws scores of rows trained on and held out, and judges them as the gate does (`gate.membership_rules`),
beside DeLong's interval. Prints the tables of benchmarks/notes/membership.md in some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import norm, rankdata

from benchmarks.tables import markdown
from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import ALPHA, level_of
from ft_dagster.gate.memorization.membership_rules import auc_of, tpr_of

DRAWS, SEED, LEVEL = 10_000, 20240229, level_of(ALPHA)
ROWS = (50, 200, 500, 2000)  # of each side
MANY = 2000  # rows of which fewer draws are taken
FEW = (500, 50)  # trained on and held out
AT_ONCE = 500  # draws
LARGEST = 10  # rows of a group
Array = np.ndarray
Draw = Callable[[np.random.Generator, tuple[int, ...], float], Array]


def _normal(draw: np.random.Generator, shape: tuple[int, ...], shift: float) -> Array:
    return draw.normal(shift, 1.0, shape)


def _heavy(draw: np.random.Generator, shape: tuple[int, ...], shift: float) -> Array:
    return draw.standard_t(1.5, shape) + 1.3 * shift


def _tied(draw: np.random.Generator, shape: tuple[int, ...], shift: float) -> Array:
    """Seven rows in ten have a loss that did not change at all."""
    moved = draw.random(shape) < 0.3
    return np.where(moved, draw.normal(3 * shift, 1.0, shape), 0.0)


def _discrete(draw: np.random.Generator, shape: tuple[int, ...], shift: float) -> Array:
    return draw.binomial(4, 0.5 + shift / 5, shape).astype(float)


@dataclass(frozen=True)
class Family:
    """Draws scores. `shifts`: of the rows trained on, for an AUC of a half, and for two above it. `grouped`:
    rows come in groups of 1 to LARGEST, whose members are alike.
    """

    name: str
    draw: Draw
    shifts: tuple[float, float, float] = (0.0, 0.36, 1.8)
    grouped: bool = False


FAMILIES = (
    Family("normal", _normal),
    Family("heavy tail (t, 1.5 degrees)", _heavy),
    Family("ties (70% unchanged)", _tied, (0.0, 0.5, 1.2)),
    Family("groups of 1 to 10", _normal, grouped=True),
    Family("discrete (five values)", _discrete, (0.0, 0.3, 1.5)),
)


def sides(
    family: Family, rows: tuple[int, int], shift: float, draws: int, draw: np.random.Generator
) -> tuple[list[Array], list[Array]]:
    """Return the scores of each unit of both sides: [draws, rows of the unit]."""
    return tuple(  # type: ignore[return-value]
        _units(family, count, by, draws, draw) for count, by in zip(rows, (shift, 0.0), strict=True)
    )


def _units(family: Family, rows: int, shift: float, draws: int, draw: np.random.Generator) -> list[Array]:
    if not family.grouped:
        return list(family.draw(draw, (draws, rows), shift).T[:, :, None])
    sizes: list[int] = []
    while sum(sizes) < rows:
        sizes.append(min(1 + len(sizes) % LARGEST, rows - sum(sizes)))
    whole = [family.draw(draw, (draws, 1), 0.0) for _ in sizes]
    own = [family.draw(draw, (draws, size), 0.0) for size in sizes]
    return [0.9 * one + np.sqrt(1 - 0.81) * each + shift for one, each in zip(whole, own, strict=True)]


def compared(one: list[Array], other: list[Array]) -> tuple[Array, Array]:
    """Return won [draws, units] and pairs [units] of the independent comparisons, as the gate makes them."""
    count = min(len(one), len(other))
    won, pairs = [], []
    for place in range(count):
        mine, theirs = (np.concatenate(units[place::count], axis=1) for units in (one, other))
        above = mine[:, :, None] - theirs[:, None, :]
        won.append((above > 0).sum(axis=(1, 2)) + (above == 0).sum(axis=(1, 2)) / 2)
        pairs.append(mine.shape[1] * theirs.shape[1])
    return np.stack(won, axis=1), np.array(pairs, float)


def misses(won: Array, pairs: Array, truth: float) -> tuple[Array, Array]:
    """Say of each draw whether the interval lies above the true AUC, and whether it lies below it."""
    shares, sizes = won / pairs, pairs / pairs.max()
    above = _p(shares - truth, sizes, truth) < LEVEL
    return above, _p(truth - shares, sizes, 1 - truth) < LEVEL


def _p(changes: Array, sizes: Array, worst: float) -> Array:
    """Return p of "the mean is 0 or below"; values that occur often are counted."""
    values = np.unique(changes.round(9))
    if (sizes == 1).all() and len(values) <= 32:
        counts = (changes.round(9)[:, :, None] == values).sum(axis=1)
        some, at = np.unique(counts, axis=0, return_inverse=True)
        found = mean_p(np.broadcast_to(values, some.shape), np.full(len(some), worst), some)
        return np.asarray(found)[at.ravel()]
    return np.asarray(mean_p(sizes * changes, np.full(len(changes), worst)))


def delong(one: list[Array], other: list[Array], truth: float) -> tuple[Array, Array]:
    """The same of DeLong's interval (Biometrics 44 (1988) 837), which sees no groups."""
    mine, theirs = (np.concatenate(units, axis=1) for units in (one, other))
    m, n = mine.shape[1], theirs.shape[1]
    ranks = rankdata(np.concatenate([mine, theirs], axis=1), axis=1)
    first = (ranks[:, :m] - rankdata(mine, axis=1)) / n
    second = 1 - (ranks[:, m:] - rankdata(theirs, axis=1)) / m
    auc = first.mean(axis=1)
    error = np.sqrt(first.var(axis=1, ddof=1) / m + second.var(axis=1, ddof=1) / n)
    reach = norm.ppf(1 - LEVEL) * error
    return auc - reach > truth, auc + reach < truth


@cache
def true_auc(family: Family, shift: float) -> float:
    """Return the AUC of two million rows of each side, to three digits; a half without a shift."""
    if not shift:
        return 0.5
    draw = np.random.default_rng((SEED, 1))
    one, other = (family.draw(draw, (1_000_000,), by) for by in (shift, 0.0))
    return auc_of(one, other)


def coverage(rows: tuple[int, int], draws: int = DRAWS) -> Iterator[tuple[str, float, tuple[float, ...]]]:
    """Yield each family at each of its AUCs: how often the gate's interval lies above it and below it, and
    the same of DeLong's.
    """
    for family in FAMILIES:
        for shift in family.shifts:
            truth, found = true_auc(family, shift), []
            draw = np.random.default_rng((SEED, *rows, int(100 * shift)))
            for done in range(0, draws, AT_ONCE):
                one, other = sides(family, rows, shift, min(AT_ONCE, draws - done), draw)
                found.append(
                    np.stack([*misses(*compared(one, other), truth), *delong(one, other, truth)], axis=1)
                )
            yield family.name, truth, tuple(np.concatenate(found).mean(axis=0))


def rates(members: int, held: int, draws: int = DRAWS) -> Iterator[tuple[float, float, float, float]]:
    """Yield (shift, true, mean and standard deviation of the measured true positive rate at 1%)."""
    draw = np.random.default_rng((SEED, members, held))
    for shift in (0.0, 1.0, 2.0):
        truth = float(norm.sf(norm.isf(0.01) - shift))
        found = [tpr_of(draw.normal(shift, 1.0, members), draw.normal(0.0, 1.0, held)) for _ in range(draws)]
        yield shift, truth, float(np.mean(found)), float(np.std(found))


def main() -> None:
    asked = next((int(word) for word in sys.argv[1:] if word.isdigit()), DRAWS)
    heads = ("scores", "AUC", "above it", "below it", "DeLong above", "DeLong below")
    for rows in (*((count, count) for count in ROWS if count < MANY), FEW, (MANY, MANY)):
        draws = asked if max(rows) < MANY else asked // 5
        print(f"\n{rows[0]:,} rows trained on, {rows[1]:,} held out; level {LEVEL:.1%}, {draws:,} draws\n")
        found = [[name, f"{auc:.3f}", *_percent(missed)] for name, auc, missed in coverage(rows, draws)]
        print(markdown(heads, found), flush=True)
    print("\nTrue positive rate at 1%, normal scores\n")
    measured = [
        [f"{members:,}", f"{held:,}", *_percent(each)]
        for members, held in ((500, 500), (500, 2000))
        for _, *each in rates(members, held, asked)
    ]
    print(markdown(("trained on", "held out", "true", "mean", "standard deviation"), measured))


def _percent(values: Sequence[float]) -> list[str]:
    return [f"{value:.1%}" for value in values]


if __name__ == "__main__":
    main()
