"""How far a variant sinks over ten generations that each lose a little, with the rule on the reference and
without.

    python -m benchmarks.gates --descent

Each generation is trained from the version in production and truly falls by a share of the margin to it. It
is asked the same questions as all before it, is judged by the tests of the gate, and takes the place of
the one in production where it passes; where it does not, the next is another try. Prints the tables of
benchmarks/notes/descent.md in a few minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import ALPHA, level_after_reference, level_of
from ft_dagster.gate.power import LOSS_BOUND
from ft_dagster.spec.variant import GatesSpec

TRIALS, SEED, GENERATIONS = 10_000, 20240229, 10
COUNTS = (200, 362, 745, 1000)  # of questions
SHARES = (0.5, 0.75, 1.0)  # of the margin to production, by which each generation falls
DISCORDANT = 0.10  # of the answers of a model that lost nothing
RELEASES = (1, 2, 4, 9)  # after the reference
GATES = GatesSpec()


@dataclass(frozen=True)
class Family:
    """Values that a question's answer can have, the best last, and their shares in the reference.

    A generation takes `noise` of the questions at the best value down by one and as many of those below up by
    one, and beside that as many down as the mean falls by. `size`: questions of a group, which are one.
    """

    name: str
    values: tuple[float, ...]
    first: tuple[float, ...]
    margin: float
    noise: float = 0.0
    bound: float = 1.0
    size: int = 1

    @property
    def since(self) -> float:
        """The margin from the reference, twice that to production."""
        found = GATES.after_reference(self.margin, loss=False)
        assert found is not None
        return found

    def moves(self, state: np.ndarray, fall: float) -> np.ndarray:
        """Of each value, the shares of the questions that go to each other one; `state`: shares of all."""
        count, steps = len(self.values), np.diff(self.values)
        moved = np.eye(count)
        down = np.zeros(count)
        down[1:] = (fall / steps + self.noise) / (count - 1) / np.maximum(state[1:], 1e-12)
        up = np.zeros(count)
        up[:-1] = self.noise / (count - 1) / np.maximum(state[:-1], 1e-12)
        for at in range(count):
            for to, share in ((at - 1, down[at]), (at + 1, up[at])):
                if 0 <= to < count:
                    moved[at, to], moved[at, at] = share, moved[at, at] - share
        return np.clip(moved, 0.0, 1.0)


FAMILIES = (
    Family("answers, all that differ are lost", (0, 1), (0.2, 0.8), 0.05),
    Family("answers, 5% more differ each way", (0, 1), (0.3, 0.7), 0.05, noise=0.05),
    Family("json_f1, fields lost and won", (0, 0.5, 1), (0.05, 0.15, 0.8), 0.05, noise=0.03),
    Family("loss, some texts by 2 nats", (-2, 0), (0.0, 1.0), 0.15, bound=LOSS_BOUND),
    Family("answers in groups of 4", (0, 1), (0.3, 0.7), 0.05, noise=0.03, size=4),
)  # fmt: skip


class Descents:
    """Ten generations of many variants at once.

    `counts`: how many questions had which value in the reference and have which one in production, shape
    [trials, first, now]; `fallen`: by how much production truly fell, `releases` since the reference, `tries`
    since the last.
    """

    def __init__(self, family: Family, questions: int, fall: float, trials: int) -> None:
        self.family, self.fall, self.trials = family, fall, trials
        self.draw = np.random.default_rng((SEED, questions, int(1e4 * fall), len(family.name)))
        units = questions // family.size
        first = self.draw.multinomial(units, family.first, trials)
        self.counts = first[:, :, None] * np.eye(len(family.values), dtype=int)
        self.generation = np.zeros(trials, int)  # of the version in production
        self.tries = np.ones(trials, int)
        self.states = [np.array(family.first)]
        for _ in range(GENERATIONS):
            self.states.append(self.states[-1] @ family.moves(self.states[-1], fall))

    def trained(self) -> np.ndarray:
        """The next generation of each: counts of shape [trials, first, production, new]."""
        shape = (*self.counts.shape, len(self.family.values))
        found = np.zeros(shape, int)
        for generation in np.unique(self.generation):
            here = self.generation == generation
            moves = self.family.moves(self.states[generation], self.fall)
            for at in range(shape[2]):
                found[here, :, at] = self.draw.multinomial(self.counts[here, :, at], moves[at])
        return found

    def judged(self, new: np.ndarray, *, by_reference: bool) -> np.ndarray:
        """Whether each new generation passes."""
        family, releases = self.family, self.generation + 1
        levels = [level_of(ALPHA, tries) for tries in self.tries]
        passed = shown(new.sum(axis=1), family, family.margin, np.array(levels))
        if by_reference:
            pairs = zip(releases, self.tries, strict=True)
            since = [level_after_reference(ALPHA, release, tries) for release, tries in pairs]
            passed &= shown(new.sum(axis=2), family, family.since, np.array(since))
        return passed

    def released(self, new: np.ndarray, passed: np.ndarray) -> None:
        self.counts = np.where(passed[:, None, None], new.sum(axis=2), self.counts)
        self.generation = self.generation + passed
        self.tries = np.where(passed, 1, self.tries + 1)


def shown(counts: np.ndarray, family: Family, margin: float, levels: np.ndarray) -> np.ndarray:
    """Whether a fall of the margin is ruled out at its level, and no more was measured. `counts`: of each
    trial, how many questions went from which value to which.
    """
    values = np.array(family.values)
    changes, at = np.unique((values[None, :] - values[:, None]).ravel(), return_inverse=True)
    flat = counts.reshape(len(counts), -1)
    often = np.stack([flat[:, at == n].sum(axis=1) for n in range(len(changes))], axis=1)
    distinct, where = np.unique(often, axis=0, return_inverse=True)
    worst = np.full(len(distinct), family.bound - margin)
    p = mean_p(np.broadcast_to(changes + margin, distinct.shape), worst, distinct)[where.ravel()]
    return (p < levels) & (often @ changes >= -margin * often.sum(axis=1) - 1e-9)


def descents(
    family: Family, questions: int, share: float, *, by_reference: bool, trials: int = TRIALS
) -> tuple[float, float]:
    """(share of the variants of which a version was released that truly fell by the margin from the reference
    or more, mean fall of what is in production) after ten generations.
    """
    found = Descents(family, questions, share * family.margin, trials)
    for _ in range(GENERATIONS):
        new = found.trained()
        found.released(new, found.judged(new, by_reference=by_reference))
    values = np.array(family.values)
    fallen = np.array([(found.states[0] - state) @ values for state in found.states])
    return float((fallen[found.generation] >= family.since - 1e-9).mean()), float(
        fallen[found.generation].mean()
    )


def unchanged(questions: int, trials: int = TRIALS) -> tuple[float, dict[int, float]]:
    """(share of the models that lost nothing which the rule on production blocks, by release after the
    reference: which the rule on that blocks).
    """
    family, draw = FAMILIES[0], np.random.default_rng((SEED, questions))
    half = DISCORDANT / 2
    counts = draw.multinomial(questions, [half, half, 1 - DISCORDANT], trials)
    pairs = np.zeros((trials, 2, 2), int)
    pairs[:, 1, 0], pairs[:, 0, 1], pairs[:, 1, 1] = counts.T

    def blocked(margin: float, level: float) -> float:
        return float(1 - shown(pairs, family, margin, np.full(trials, level)).mean())

    since = {release: blocked(family.since, level_after_reference(ALPHA, release)) for release in RELEASES}
    return blocked(family.margin, level_of(ALPHA)), since


def tables(trials: int = TRIALS) -> Iterator[str]:
    heads = [f"{n:,}" for n in COUNTS]
    for by_reference in (False, True):
        which = "With" if by_reference else "Without"
        yield f"\n{which} the rule on the reference, {trials:,} descents a cell\n"
        yield _row(["family", "a generation falls", *heads, *(f"fell in the mean, {n}" for n in heads)])
        yield "|" + "---|" * (2 + 2 * len(COUNTS))
        for family in FAMILIES:
            for share in SHARES:
                found = [descents(family, n, share, by_reference=by_reference, trials=trials) for n in COUNTS]
                sunk, fell = zip(*found, strict=True)
                fall = f"{share * family.margin:.3g} of {family.margin:g}"
                yield _row([family.name, fall, *(f"{x:.2%}" for x in sunk), *(f"{x:.3f}" for x in fell)])
    yield f"\nModels that lost nothing ({DISCORDANT:.0%} of the answers differ) and are blocked\n"
    yield _row(
        [
            "questions",
            "by production, 5 points",
            *(f"by the reference, release {k} after it" for k in RELEASES),
        ]
    )
    yield "|" + "---|" * (2 + len(RELEASES))
    for questions in COUNTS:
        production, since = unchanged(questions, trials)
        yield _row([f"{questions:,}", f"{production:.1%}", *(f"{x:.1%}" for x in since.values())])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in tables():
        print(line)
