"""How often a fall of the margin passes where groups of questions are of unlike size, and what they show.

    python -m benchmarks.gates --groups

Draws groups of 1 to 1,000 questions, of which all change alike, and judges them by size and by group. Prints
the tables of benchmarks/notes/gates-groups.md in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import markdown
from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import ALPHA, level_of

TRIALS, SEED = 10_000, 20261201
GROUPS = (10, 30, 100, 300, 1000)
SIZES = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
MARGIN, LARGE = 0.15, 50  # a group of so many questions is a large one
SPLITS = 10  # the rows of a variant are so many times those of its test split
WAYS = ("those asked", "those known", "the largest there is", "by group")
SAID = ("asked", "known", "largest there is", "by group")  # the same as heads of tables


@dataclass(frozen=True)
class Population:
    """Groups of `SIZES` with these probabilities. `falls`: how likely a group of each size is to lose all of
    its answers, up to a factor.
    """

    name: str
    shares: np.ndarray
    falls: np.ndarray

    def falls_of(self, weights: str) -> np.ndarray | None:
        """The probability of a fall by size, so that the mean falls by the margin; None where none does."""
        weight = SIZES if weights == "size" else np.ones(len(SIZES))
        mean = (self.shares * weight).sum()
        factor = MARGIN * mean / (self.shares * weight * self.falls).sum()
        found = self.falls * factor
        return found if found.max() <= 1 + 1e-12 else None

    def truncated(self, falls: np.ndarray, largest: np.ndarray) -> np.ndarray:
        """The mean change where each group counts up to `largest` questions, of each trial."""
        weight = np.minimum(SIZES, largest[:, None]) * self.shares
        return -(weight * falls).sum(axis=1) / weight.sum(axis=1)


def _power_law(exponent: float) -> np.ndarray:
    edges = np.append(SIZES, 2000).astype(float)
    mass = edges[:-1] ** -exponent - edges[1:] ** -exponent
    return mass / mass.sum()


def _lognormal(median: float, sigma: float) -> np.ndarray:
    mass = np.exp(-(np.log(SIZES / median) ** 2) / (2 * sigma**2))
    return mass / mass.sum()


def _two(large: float, size: int) -> np.ndarray:
    mass = np.zeros(len(SIZES))
    mass[0], mass[size == SIZES] = 1 - large, large
    return mass


def _rare(size: int) -> np.ndarray:
    """Single questions, and so few groups of `size` that they hold the margin's share of all."""
    return _two(MARGIN / (MARGIN + size * (1 - MARGIN)), size)


ALL, ONLY_LARGE = np.ones(len(SIZES)), (SIZES >= LARGE).astype(float)
POPULATIONS = (
    Population("1, and 3% of them 10, the large fall", _two(0.03, 10), (SIZES == 10).astype(float)),
    Population("1, and 0.02% of them 1,000, all these fall", _rare(1000), (SIZES == 1000).astype(float)),
    Population("1 to 1,000 alike, any falls", np.full(len(SIZES), 0.1), ALL),
    Population("1 to 1,000 alike, the large fall", np.full(len(SIZES), 0.1), ONLY_LARGE),
    Population("lognormal, the larger the likelier", _lognormal(10, 1.2), 0.2 + 0.8 * np.sqrt(SIZES / 1000)),
    Population("Pareto (exponent 1), any falls", _power_law(1.0), ALL),
    Population("Pareto (exponent 1), the large fall", _power_law(1.0), ONLY_LARGE),
    Population("Pareto (exponent 1), the small fall", _power_law(1.0), 1 - ONLY_LARGE),
)


def passes(
    population: Population, groups: int, *, fallen: bool, level: float = ALPHA, trials: int = TRIALS
) -> dict[str, float]:
    """Way of counting -> the share of trials in which a fall of the margin is ruled out; of `those asked` and
    `those known`, while it is true of groups that count up to the largest of these. Not of by group where no
    groups can fall so far.

    `fallen`: the mean falls by the margin, by size or, for `by group`, of the groups; else nothing changed.
    """
    found = dict[str, float]()
    draw = np.random.default_rng((SEED, groups, POPULATIONS.index(population)))
    by_size = population.falls_of("size") if fallen else np.zeros(len(SIZES))
    if by_size is not None:
        counts = _drawn(draw, population, by_size, groups, trials)
        asked = _largest(counts)
        known = np.maximum(
            asked, _largest(draw.multinomial((SPLITS - 1) * groups, population.shares, trials))
        )
        for way, largest in zip(WAYS, (asked, known, np.full(trials, SIZES.max())), strict=False):
            shown = _shown(counts, SIZES / largest[:, None], level)
            true = population.truncated(by_size, largest) <= -MARGIN + 1e-12
            found[way] = float((shown & (true if fallen else True)).mean())
            found[f"{way}, of all sizes"] = float(shown.mean())
    by_group = population.falls_of("group") if fallen else np.zeros(len(SIZES))
    if by_group is not None:
        counts = _drawn(draw, population, by_group, groups, trials)
        found["by group"] = float(_shown(counts, np.ones((trials, len(SIZES))), level).mean())
    return found


def _drawn(
    draw: np.random.Generator, population: Population, falls: np.ndarray, groups: int, trials: int
) -> np.ndarray:
    """How many groups of each size fell, and how many did not: shape [trials, 2, sizes]."""
    counts = draw.multinomial(groups, population.shares, trials)
    lost = draw.binomial(counts, np.minimum(falls, 1.0))
    return np.stack([lost, counts - lost], axis=1)


def _largest(counts: np.ndarray) -> np.ndarray:
    """The size of the largest group of each trial."""
    there = counts.reshape(len(counts), -1, len(SIZES)).sum(axis=1) > 0
    return np.asarray(SIZES[len(SIZES) - 1 - there[:, ::-1].argmax(axis=1)])


def _shown(counts: np.ndarray, shares: np.ndarray, level: float) -> np.ndarray:
    """Whether a fall of the margin is ruled out, by the gate's test. Where nothing changed its p is the
    product that `groups.groups_of` takes; where the sum is no larger than half of its noise, p is above any
    level.
    """
    counts, shares = counts.astype(float), np.broadcast_to(shares, counts[:, 0].shape)
    lost, kept = counts[:, 0], counts[:, 1]
    if not lost.any():
        p = np.exp(-(kept * np.log1p(shares * MARGIN / (1 - MARGIN))).sum(axis=1))
        return np.asarray(p <= level)
    values = np.concatenate([shares * (MARGIN - 1), shares * MARGIN], axis=1)
    often = np.concatenate([lost, kept], axis=1)
    total = (often * values).sum(axis=1) - (1 - MARGIN)
    noise = np.sqrt((often * values**2).sum(axis=1) + (1 - MARGIN) ** 2)
    shown, likely = np.zeros(len(values), bool), total > 0.5 * noise
    there = often[likely].any(axis=0)
    worst = np.full(int(likely.sum()), 1 - MARGIN)
    shown[likely] = mean_p(values[likely][:, there], worst, often[likely][:, there]) <= level
    return shown


def rows(*, fallen: bool, trials: int = TRIALS) -> Iterator[tuple[str, int, dict[str, float]]]:
    for population in POPULATIONS:
        for groups in GROUPS:
            yield population.name, groups, passes(population, groups, fallen=fallen, trials=trials)


def main() -> None:
    print(f"Groups whose mean falls by the margin of {MARGIN:g}, level {ALPHA:.0%}\n")
    ways = ("those asked, of all sizes", "those known, of all sizes", *WAYS)
    heads = ("groups of", "number", "asked, of all sizes", "known, of all sizes", *SAID)
    print(markdown(heads, [_row(*row, ways) for row in rows(fallen=True)]))
    print(f"\nModels that did not change, level {level_of(ALPHA):.1%}\n")
    heads = ("groups of", "number", *SAID)
    print(markdown(heads, [_row(*row, WAYS) for row in rows(fallen=False)]))


def _row(name: str, groups: int, found: dict[str, float], ways: tuple[str, ...]) -> list[str]:
    return [name, f"{groups:,}", *(f"{found[way]:.1%}" if way in found else "" for way in ways)]


if __name__ == "__main__":
    main()
