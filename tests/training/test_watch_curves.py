"""Loss curves in words: shapes made by formulas with noise, and the words for each kind of method."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from ft_dagster.training.contract import method_settings
from ft_dagster.training.watch.curves import Knobs, advice, findings
from tests.training.runs import LORA as LORA_SETTINGS

LORA = Knobs.of(method_settings({**LORA_SETTINGS, "name": "lora", "rank": 16}))


def curve(
    loss: Callable[[float], float], steps: int = 90, noise: float = 0.1, seed: int = 0
) -> list[tuple[int, float]]:
    """`loss` of the share of the training that is done, with normal noise, one value a step."""
    rng = random.Random(seed)
    return [(step, loss(step / steps) + rng.gauss(0, noise)) for step in range(1, steps + 1)]


def measured(*losses: float) -> list[tuple[int, float]]:
    """Validation at step 0 and then evenly over 90 steps."""
    return [(round(90 * number / (len(losses) - 1)), loss) for number, loss in enumerate(losses)]


HEALTHY = curve(lambda done: 1 + 2 * math.exp(-12 * done))
HEALTHY_VALIDATION = measured(3, 1.4, 1.12, 1.1, 1.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_that_falls_and_settles_low_needs_no_word(seed: int) -> None:
    training = curve(lambda done: 1 + 2 * math.exp(-12 * done), seed=seed)
    assert findings(training, HEALTHY_VALIDATION) == []
    assert findings(training, []) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_stays_high_is_a_plateau(seed: int) -> None:
    training = curve(lambda done: 2.4 + 0.6 * math.exp(-12 * done), seed=seed)
    assert findings(training, measured(3, 2.5, 2.45, 2.45)) == ["plateau"]
    assert "try rank 32, or a higher learning rate" in advice(training, [], LORA)[0]


def test_with_unused_ranks_a_plateau_asks_for_no_more_of_them() -> None:
    training = curve(lambda done: 2.4 + 0.6 * math.exp(-12 * done))
    (said,) = advice(training, [], LORA, rank_collapsed=True)
    assert "rank" not in said
    assert "higher learning rate" in said


@pytest.mark.parametrize("seed", range(5))
def test_validation_that_rises_while_training_falls_is_overfitting(seed: int) -> None:
    training = curve(lambda done: 3 * math.exp(-4 * done), seed=seed)
    assert findings(training, measured(3, 1.5, 1.3, 1.5, 1.8)) == ["overfitting"]
    assert (
        "try rank 8, more dropout, a lower learning rate" in advice(training, measured(3, 1.3, 1.8), LORA)[0]
    )


def test_a_rise_of_validation_within_noise_is_not_overfitting() -> None:
    assert findings(HEALTHY, measured(3, 1.4, 1.1, 1.09, 1.095)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_falls_to_the_end_asks_for_more_epochs(seed: int) -> None:
    training = curve(lambda done: 3 - 2.5 * done, seed=seed)
    assert findings(training, measured(3, 2.4, 1.8, 1.2, 0.6)) == ["falling"]
    assert findings(training, []) == ["falling"]
    assert "more epochs" in advice(training, [], LORA)[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_rises_again_is_diverging(seed: int) -> None:
    training = curve(lambda done: 3 - 3 * done if done < 0.5 else 1.5 + 3 * (done - 0.5), seed=seed)
    assert findings(training, measured(3, 2, 1.6, 2, 3)) == ["diverging"]
    assert "lower learning rate" in advice(training, [], LORA)[0]


@pytest.mark.parametrize(
    ("method", "overfits", "stands"),
    [
        ({"name": "full"}, "try weight decay, a lower", "try a higher learning rate"),
        ({**LORA_SETTINGS, "name": "qlora", "rank": 1}, "try more dropout, a lower", "try rank 2"),
        (
            {"name": "prompt_tuning", "num_virtual_tokens": 20},
            "try num_virtual_tokens 10, weight decay",
            "try num_virtual_tokens 40",
        ),
    ],
)
def test_the_words_fit_the_method(method: dict[str, object], overfits: str, stands: str) -> None:
    knobs = Knobs.of(method_settings(method))
    falling = curve(lambda done: 3 * math.exp(-4 * done))
    assert overfits in advice(falling, measured(3, 1.5, 1.3, 1.5, 1.8), knobs)[0]
    high = curve(lambda done: 2.4 + 0.6 * math.exp(-12 * done))
    assert stands in advice(high, [], knobs)[0]


def test_too_few_steps_say_nothing() -> None:
    assert findings([(1, 3.0), (2, 3.1), (3, 3.0)], [(0, 3.0)]) == []
    assert findings([], []) == []
