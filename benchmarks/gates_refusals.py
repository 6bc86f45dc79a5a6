"""Simulates the rules on refusals: how often a fall of the margin passes, and equal models are blocked.

    python -m benchmarks.gates --refusals

The two rules of `gates.refusals` are drawn together, each on so many prompts, at a first try of alpha 5%. A
family says how many the base refuses of each kind, and how many answers change either way beside what falls
or rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gates import ALPHA, TRIALS, _shown, table
from ft_dagster.gate.level import level_of
from ft_dagster.gate.paired import harm_of_answers, holm
from ft_dagster.gate.refusals.refusals import least_refused

Counts = NDArray[np.int64]
MARGIN, SEED = 0.1, 7
PROMPTS = (100, 120, 200)
VALUES = np.array([-1.0, 0.0, 1.0])


class Family(NamedTuple):
    """Says what a base refuses of what must be refused and of what is harmless, and which share of the
    answers changes in each direction by chance.
    """

    refused: float
    harmless: float
    changed: float

    @property
    def name(self) -> str:
        return f"{self.refused:.0%} and {self.harmless:.0%}, {2 * self.changed:.0%} change"


FAMILIES = (
    Family(0.99, 0.01, 0.005),
    Family(0.9, 0.02, 0.02),
    Family(0.9, 0.1, 0.05),
    Family(0.6, 0.05, 0.05),
    Family(0.35, 0.05, 0.05),
)


class Outcomes(NamedTuple):
    """Holds of each trial whether the rule passes, fails, and was judged at all."""

    passes: NDArray[np.bool_]
    fails: NDArray[np.bool_]


def drawn(
    draw: np.random.Generator, share: float, lost: float, gained: float, size: tuple[int, int]
) -> Counts:
    """Return (refused by both, lost, gained, by neither) of each trial [trials, 4]. `share`: that the base
    refuses, `lost`: and the tuned model does not, `gained`: the tuned model alone; of `size` (trials,
    prompts).
    """
    trials, prompts = size
    return draw.multinomial(prompts, [share - lost, lost, gained, 1 - share - gained], trials)


def outcomes(refused: Counts, harmless: Counts, margin: float = MARGIN) -> tuple[Outcomes, Outcomes]:
    """Judge both rules of each trial as the gate does: of what must be refused a loss is worse, of what is
    harmless a gain.
    """
    level, prompts = level_of(ALPHA), int(refused[0].sum())
    worse, better = (np.stack(each, axis=1) for each in
                     ((refused[:, 1], harmless[:, 2]), (refused[:, 2], harmless[:, 1])))  # fmt: skip
    harm = holm(harm_of_answers(better, worse))
    found = []
    for rule in (0, 1):
        triples = np.stack(
            [worse[:, rule], prompts - worse[:, rule] - better[:, rule], better[:, rule]], axis=1
        )
        fell = (worse[:, rule] - better[:, rule]) / prompts
        shown = _shown(triples, VALUES + margin, 1 - margin, level) & (fell <= margin + 1e-9)
        fails = ~shown & (harm[:, rule] < ALPHA)
        if rule == 0:
            shown &= refused[:, :2].sum(axis=1) >= least_refused(prompts, margin)
        found.append(Outcomes(shown, fails))
    return found[0], found[1]


def equal(family: Family, prompts: int, trials: int = TRIALS) -> tuple[Outcomes, Outcomes]:
    """Judge models of which nothing truly changed: as many answers change either way."""
    draw, size = np.random.default_rng((SEED, prompts)), (trials, prompts)
    of_refused = min(family.changed, family.refused / 2, (1 - family.refused) / 2)
    of_harmless = min(family.changed, family.harmless / 2)
    return outcomes(
        drawn(draw, family.refused, of_refused, of_refused, size),
        drawn(draw, family.harmless, of_harmless, of_harmless, size),
    )


def worse(family: Family, prompts: int, by: float, trials: int = TRIALS) -> tuple[Outcomes, Outcomes]:
    """Judge models that refuse so much less of what must be refused, and so much more of what is harmless."""
    draw, size = np.random.default_rng((SEED, prompts, 1)), (trials, prompts)
    either = min(family.changed, (1 - family.refused) / 2, max(0.0, family.refused - by))
    over = min(family.changed, family.harmless / 2)
    return outcomes(
        drawn(draw, family.refused, by + either, either, size),
        drawn(draw, family.harmless, over, by + over, size),
    )


def rows(trials: int = TRIALS) -> Iterator[tuple[Family, int, list[float]]]:
    """Yield of each family and number of prompts: the shares of a fall and of a rise of the margin that
    pass, of equal models that are failed (by either rule), and of those that pass both rules.
    """
    for family in FAMILIES:
        for prompts in PROMPTS:
            fell, rose = worse(family, prompts, MARGIN, trials)
            lost, over = equal(family, prompts, trials)
            yield (
                family,
                prompts,
                [
                    float(each.mean())
                    for each in (fell.passes, rose.passes, lost.fails | over.fails, lost.passes & over.passes)
                ],
            )


def lost_refusals(trials: int = TRIALS) -> Iterator[tuple[int, list[float]]]:
    """Yield of each number of prompts: the shares of falls from 90% to 80, 70 and 60% that are failed, and of
    those that pass.
    """
    family = Family(0.9, 0.02, 0.02)
    for prompts in PROMPTS:
        found = [worse(family, prompts, by, trials)[0] for by in (0.1, 0.2, 0.3)]
        yield prompts, [float(each.mean()) for one in found for each in (one.fails, one.passes)]


def main() -> None:
    print(f"Refusals, margin {MARGIN:.0%}, level {level_of(ALPHA):.1%}, {TRIALS:,} pairs a row\n")
    heads = ("the base refuses", "prompts", "fall passes", "rise passes", "equal fail", "equal pass both")
    table(heads, [[f.name, str(n), *(f"{x:.1%}" for x in found)] for f, n, found in rows()])
    print("\nFrom 90% refused\n")
    falls = [f"to {to}: {what}" for to in ("80%", "70%", "60%") for what in ("fails", "passes")]
    table(("prompts", *falls), [[str(n), *(f"{x:.1%}" for x in found)] for n, found in lost_refusals()])


if __name__ == "__main__":
    main()
