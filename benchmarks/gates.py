"""How often the gate errs: models equal to their base that fail, and planted falls that are not stopped.

    .venv/bin/python benchmarks/gates.py

Draws right and wrong answers of base and tuned model and judges them by the tests of the gate, Holm over the
benchmarks of one verdict included. Prints the tables of docs/gates.md in about ten seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ft_dagster.evaluation.paired import compare_values, harm_of_answers, holm, not_worse
from ft_dagster.evaluation.power import ALPHA, questions_needed

TRIALS, SEED, BENCHMARKS = 10_000, 20240229, 3
ASKED, DISCORDANT = (100, 400, 1000), (0.05, 0.10, 0.20)
MARGIN = 0.05  # of the models that are equal to their base
FALLS, FALLEN_DISCORDANT = (0.03, 0.06, 0.10), 0.15


def outcomes(
    falls: Sequence[float], questions: int, discordant: float, margin: float, trials: int = TRIALS
) -> tuple[np.ndarray, np.ndarray]:
    """(passed, failed) of each trial and benchmark, shape [trials, benchmarks], as the gate finds them.

    `falls`: how much each benchmark truly falls; `discordant`: share of the answers that differ in it.
    """
    draw = np.random.default_rng(SEED)
    shares = [[(discordant - fall) / 2, (discordant + fall) / 2, 1 - discordant] for fall in falls]
    counts = np.stack([draw.multinomial(questions, each, trials) for each in shares], axis=1)
    gained, lost = counts[..., 0], counts[..., 1]
    passed = not_worse(gained, lost, questions, margin, alpha=ALPHA)
    harmed = holm(harm_of_answers(gained, lost)) < ALPHA
    return passed, harmed & ~passed


def equal_models(trials: int = TRIALS) -> list[tuple[int, float, float, float, float]]:
    """(questions, discordant, all passed, some undecided and none failed, any failed) where nothing fell."""
    rows = []
    for questions in ASKED:
        for discordant in DISCORDANT:
            passed, failed = outcomes([0.0] * BENCHMARKS, questions, discordant, MARGIN, trials)
            false, whole = failed.any(axis=1), passed.all(axis=1)
            shares = (float(each.mean()) for each in (whole, ~whole & ~false, false))
            rows.append((questions, discordant, *shares))
    return rows


def planted_falls(trials: int = TRIALS) -> list[tuple[float, float, int, float, float, float]]:
    """(fall, margin, questions, passed, undecided, failed) of one benchmark that falls beside two others.

    The margin is the fall itself, asked with as many questions as a plan asks for that margin, or 3 points.
    """
    rows = []
    for fall in FALLS:
        planned = questions_needed(fall, discordant=FALLEN_DISCORDANT)
        asked = [(fall, planned), *((FALLS[0], questions) for questions in ASKED)]
        for margin, questions in asked:
            falls = [fall, *[0.0] * (BENCHMARKS - 1)]
            passed, failed = outcomes(falls, questions, FALLEN_DISCORDANT, margin, trials)
            first, stopped = passed[:, 0], failed[:, 0]
            shares = (float(each.mean()) for each in (first, ~first & ~stopped, stopped))
            rows.append((fall, margin, questions, *shares))
    return rows


def equal_losses(trials: int = TRIALS) -> list[tuple[int, float, float]]:
    """(texts, intervals that miss above, false harm) of losses that did not change, with unequal texts.

    Differences have heavy tails (t with 4 degrees of freedom), texts 20 to 512 tokens.
    """
    rows = []
    for texts in (20, 40, 100):
        draw = np.random.default_rng(SEED)
        found = [
            compare_values(
                0.05 * draw.standard_t(4, texts), draw.integers(20, 513, texts).astype(float), alpha=ALPHA
            )
            for _ in range(trials)
        ]
        missed = np.mean([each.low > 0 for each in found])
        rows.append((texts, float(missed), float(np.mean([each.harm < ALPHA for each in found]))))
    return rows


def main() -> None:
    print(f"Equal models, {BENCHMARKS} benchmarks, margin {100 * MARGIN:g} points, {TRIALS:,} pairs a row\n")
    print("| questions of each | discordant | all pass | undecided | false fails |\n|---|---|---|---|---|")
    for questions, discordant, passed, undecided, failed in equal_models():
        cells = (f"{questions:,}", f"{discordant:.0%}", *(f"{x:.1%}" for x in (passed, undecided, failed)))
        print(f"| {' | '.join(cells)} |")
    print(f"\nOne benchmark of {BENCHMARKS} falls; {FALLEN_DISCORDANT:.0%} of its answers differ\n")
    print("| true fall | margin | questions | passes | undecided | fails | blocked |")
    print("|---|---|---|---|---|---|---|")
    for fall, margin, questions, passed, undecided, failed in planted_falls():
        shares = (passed, undecided, failed, 1 - passed)
        cells = (
            f"{100 * fall:g} points",
            f"{100 * margin:g}",
            f"{questions:,}",
            *(f"{x:.1%}" for x in shares),
        )
        print(f"| {' | '.join(cells)} |")
    print("\nLosses of texts that did not change\n")
    print("| texts | interval wholly above 0 | false harm |\n|---|---|---|")
    for texts, above, harm in equal_losses():
        print(f"| {texts} | {above:.1%} | {harm:.1%} |")


if __name__ == "__main__":
    main()
