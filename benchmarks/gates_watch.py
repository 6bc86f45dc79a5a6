"""How often a training is stopped for a fall of its benchmark that is none, and how soon for one that is.

    python -m benchmarks.gates --watch

Draws the answers to a few questions, the same at every look, of models that do not change and of models that
fall, and stops them by the rule of `training.watch.benchmark_limit`. Prints the tables of
benchmarks/notes/gates-watch.md in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import markdown
from ft_dagster.gate.level import ALPHA
from ft_dagster.gate.paired import harm_of_answers

TRIALS, SEED = 10_000, 20261201
LOOKS, QUESTIONS, FALLS = (5, 20, 100), (20, 50, 100), (0.1, 0.2)
LIMIT = 0.05  # of the fall that may be measured
SLOPE = 8  # looks over which a model that falls does so, and stays there


@dataclass(frozen=True)
class Family:
    """Answers of a model that does not change as a whole. `right`: of the base; `differ`: the share of the
    questions of which the answer is another one than the base's, at each look; `kept`: of those, how many
    are the same as at the look before, since a model moves little between two.
    """

    name: str
    right: float
    differ: float
    kept: float


FAMILIES = (
    Family("5% differ, anew at each look", 0.6, 0.05, 0.0),
    Family("10% differ, nine of ten as at the look before", 0.6, 0.1, 0.9),
    Family("20% differ, half of them as at the look before", 0.5, 0.2, 0.5),
    Family("20% differ, anew at each look", 0.25, 0.2, 0.0),
    Family("40% differ, anew at each look", 0.5, 0.4, 0.0),
)


def stopped_at(
    family: Family, questions: int, looks: int, *, fall: float = 0.0, trials: int = TRIALS
) -> tuple[np.ndarray, np.ndarray]:
    """The look at which each training is stopped, 0 where none stops it: by the rule, which is a fall beyond
    the limit that is shown, and by one beyond the limit alone, as it was. `fall`: of the accuracy, reached in
    equal parts over `SLOPE` looks, by answers that are lost for good.
    """
    draw = np.random.default_rng((SEED, questions, looks, FAMILIES.index(family), int(100 * fall)))
    shape, stopped, alone = (trials, questions), np.zeros(trials, int), np.zeros(trials, int)
    base, fate, noise = draw.random(shape) < family.right, draw.random(shape), np.zeros(shape, np.int8)
    for look in range(1, looks + 1):
        noise = np.where(draw.random(shape, np.float32) < family.kept, noise, _noise(draw, base, family))
        lost = base & (fate < fall / family.right * min(1.0, look / SLOPE))
        change = np.where(lost, -1, noise)
        gained, fell = (change > 0).sum(axis=1), (change < 0).sum(axis=1)
        beyond = (fell - gained) / questions > LIMIT
        shown = harm_of_answers(gained, fell) <= ALPHA / looks
        stopped = np.where((stopped == 0) & beyond & shown, look, stopped)
        alone = np.where((alone == 0) & beyond, look, alone)
    return stopped, alone


def _noise(draw: np.random.Generator, base: np.ndarray, family: Family) -> np.ndarray:
    """Changes of answers that leave the accuracy where it is: -1, 0 or 1. As many right ones are lost as
    wrong ones are gained.
    """
    half = family.differ / 2
    chance = np.where(base, half / family.right, half / (1 - family.right))
    return np.where(draw.random(base.shape, np.float32) < chance, np.where(base, -1, 1), 0).astype(np.int8)


def false_stops(trials: int = TRIALS) -> Iterator[tuple[Family, int, int, float, float]]:
    """Yield family, questions, looks, and the share of trainings of an unchanged model that are stopped: by
    the rule, and by the measured fall alone.
    """
    for family in FAMILIES:
        for questions in QUESTIONS:
            for looks in LOOKS:
                found = stopped_at(family, questions, looks, trials=trials)
                now, then = (float((at > 0).mean()) for at in found)
                yield family, questions, looks, now, then


def real_stops(trials: int = TRIALS) -> Iterator[tuple[float, int, int, float, float]]:
    """Yield fall, questions, looks, the share of trainings that are stopped, and the look that has stopped
    half of them (0: none has). Of the second family.
    """
    for fall in FALLS:
        for questions in QUESTIONS:
            for looks in LOOKS:
                at, _ = stopped_at(FAMILIES[1], questions, looks, fall=fall, trials=trials)
                share = float((at > 0).mean())
                half = int(np.quantile(np.where(at > 0, at, looks + 1), 0.5, method="higher"))
                yield fall, questions, looks, share, half if half <= looks else 0


def main() -> None:
    heads = (
        "model",
        "questions",
        *(f"{looks} looks{how}" for looks in LOOKS for how in ("", ", measured alone")),
    )
    print(f"Unchanged models that are stopped, level {ALPHA:.0%} over all looks, limit {LIMIT:.0%}\n")
    shares = {(family.name, n, looks): (now, then) for family, n, looks, now, then in false_stops()}
    rows = [
        [family.name, f"{n}", *(f"{x:.1%}" for looks in LOOKS for x in shares[family.name, n, looks])]
        for family in FAMILIES
        for n in QUESTIONS
    ]
    print(markdown(heads, rows))
    print(f"\nModels that fall over {SLOPE} looks; {FAMILIES[1].name}\n")
    heads = (
        "fall",
        "questions",
        *(f"{looks} looks{how}" for looks in LOOKS for how in ("", ", half by look")),
    )
    stops = {(fall, n, looks): (share, half) for fall, n, looks, share, half in real_stops()}
    rows = [
        [
            f"{100 * fall:g} points",
            f"{n}",
            *(
                said
                for looks in LOOKS
                for share, half in [stops[fall, n, looks]]
                for said in (f"{share:.1%}", f"{half or ''}")
            ),
        ]
        for fall in FALLS
        for n in QUESTIONS
    ]
    print(markdown(heads, rows))


if __name__ == "__main__":
    main()
