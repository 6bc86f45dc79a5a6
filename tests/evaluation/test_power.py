import math

import numpy as np
import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.paired import not_worse
from ft_dagster.evaluation.power import ALPHA, POWER, margin_seen, questions_needed


@pytest.mark.parametrize("discordant", [0.05, 0.10, 0.20])
@pytest.mark.parametrize("margin", [0.03, 0.05, 0.10])
def test_so_many_questions_show_that_margin_in_trials(margin: float, discordant: float) -> None:
    count = questions_needed(margin, discordant=discordant)
    shares = [discordant / 2, discordant / 2, 1 - discordant]
    gained, lost, _ = np.random.default_rng(7).multinomial(count, shares, 20_000).T
    passed = not_worse(gained, lost, count, margin, alpha=ALPHA).mean()
    assert passed == pytest.approx(POWER, abs=0.045)  # answers are counted in whole numbers


def test_questions_grow_as_the_formula_does() -> None:
    # (1.645 sqrt((sqrt(0.01 + 4 * 0.0025 * 0.9) + 0.1) / 2 - 0.0025) + 0.842 sqrt(0.1))^2 / 0.0025
    restricted = (math.sqrt(0.01 + 4 * 0.0025 * 0.9) + 0.1) / 2 - 0.0025
    by_hand = (1.6449 * math.sqrt(restricted) + 0.8416 * math.sqrt(0.1)) ** 2 / 0.0025
    assert questions_needed(0.05) == math.ceil(by_hand) == 274


def test_the_margin_seen_is_the_margin_needed() -> None:
    assert margin_seen(questions_needed(0.03)) == pytest.approx(0.03, rel=1e-3)


def test_a_single_question_shows_nothing() -> None:
    assert margin_seen(1) > 0.8


@pytest.mark.parametrize("margin", [0.0, -0.02, 1.5])
def test_a_margin_of_nothing_cannot_be_shown(margin: float) -> None:
    with pytest.raises(UserError, match="margin"):
        questions_needed(margin)
