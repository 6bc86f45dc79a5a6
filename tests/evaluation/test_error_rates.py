"""How often the gate errs, by the simulation of benchmarks/gates.py with its fixed seed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.present import present

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 4000


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    file = ROOT / "benchmarks" / "gates.py"
    spec = present(importlib.util.spec_from_file_location("gate_simulation", file))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    present(spec.loader).exec_module(module)
    return module


@pytest.fixture(scope="module")
def equal_models(simulation: ModuleType) -> list[Any]:
    return list(simulation.equal_models(TRIALS))


@pytest.fixture(scope="module")
def planted_falls(simulation: ModuleType) -> list[Any]:
    return list(simulation.planted_falls(TRIALS))


def test_equal_models_fail_in_at_most_one_of_twenty_verdicts(equal_models: list[Any]) -> None:
    assert max(failed for *_, failed in equal_models) <= 0.05
    assert max(failed for *_, failed in equal_models) > 0.02  # the tests of harm do act


@pytest.mark.parametrize("questions", [20, 32, 40, 60, 64, 100])
def test_a_fall_as_large_as_the_margin_passes_at_most_at_the_level(
    simulation: ModuleType, questions: int
) -> None:
    """Answers, lumps, rare large rises, equal scores, groups of 2, 4 and 10: each family of the benchmark."""
    for family in simulation.FAMILIES:
        if questions // family.size > 1:
            (passed,) = simulation.passes(family, questions, fallen=True, trials=TRIALS, methods=["Gaffke"])
            assert passed <= 0.06, family


def test_ten_tries_of_the_same_weights_pass_as_rarely_as_one(simulation: ModuleType) -> None:
    shared, alone = simulation.tries_of_the_same_weights(10, trials=TRIALS)
    assert shared <= 0.06
    assert alone > 0.25


@pytest.mark.parametrize(
    ("name", "margin", "questions", "least"),
    [
        ("answers, 5% differ", 0.05, 400, 0.95),
        ("answers, 25% differ", 0.15, 100, 0.8),
        ("json_f1, fields lost and won", 0.1, 100, 0.9),
        ("loss, 5% by 2 nats, the rest by 0.05", 0.1, 64, 0.85),
    ],
)
def test_the_level_is_not_bought_by_never_passing(
    simulation: ModuleType, name: str, margin: float, questions: int, least: float
) -> None:
    (family,) = [each for each in simulation.FAMILIES if (each.name, each.margin) == (name, margin)]
    (passed,) = simulation.passes(family, questions, fallen=False, trials=TRIALS, methods=["Gaffke"])
    assert passed > least


def test_equal_models_pass_where_enough_is_asked(equal_models: list[Any]) -> None:
    passed = {(questions, discordant): share for questions, discordant, share, *_ in equal_models}
    assert passed[1000, 0.10] > 0.98
    assert passed[100, 0.20] < 0.1


def test_a_fall_as_large_as_the_margin_is_blocked_at_the_level(planted_falls: list[Any]) -> None:
    for fall, margin, _, passed, _, _ in planted_falls:
        assert passed <= (0.03 if fall == margin else 0.02)  # half of 0.05, and what 4000 trials vary by


def test_harm_is_shown_by_enough_questions(planted_falls: list[Any]) -> None:
    failed = {(fall, asked): share for fall, _, asked, _, _, share in planted_falls}
    assert failed[0.06, 400] > 0.8
    assert failed[0.10, 400] > 0.99


def test_a_loss_that_did_not_change_is_no_harm(simulation: ModuleType) -> None:
    for _, harm in simulation.equal_losses(300):
        assert harm < 0.08


LEVEL = 0.025 + 0.008  # of a first try, and what 4,000 trials vary by
ALONE, ALIKE, PARTLY = "each text alone", "groups of 4, all alike", "groups of 4, a half, one or all"


@pytest.mark.parametrize("shape", [ALONE, ALIKE, PARTLY])
@pytest.mark.parametrize("jump", [0.5, 2.0, 5.0, 20.0])
def test_the_counted_mean_of_a_loss_errs_at_most_at_its_level(
    simulation: ModuleType, shape: str, jump: float
) -> None:
    losses = simulation.Losses(shape, jump)
    for texts in (72, 200):
        mean, _, whole, _ = simulation.loss_passes(losses, losses.hit_at_margin, texts, 0.05, TRIALS)
        assert whole <= mean <= LEVEL


@pytest.mark.parametrize("shape", [ALONE, ALIKE, PARTLY])
@pytest.mark.parametrize("tail", [0.02, 0.05])
@pytest.mark.parametrize("jump", [2.1, 20.0])
def test_the_tail_of_a_loss_errs_at_most_at_its_level(
    simulation: ModuleType, shape: str, tail: float, jump: float
) -> None:
    losses = simulation.Losses(shape, jump)
    for texts in (183, 400, 1000):
        _, few, whole, _ = simulation.loss_passes(losses, tail, texts, tail, TRIALS)
        assert whole <= few <= LEVEL


def test_a_loss_that_did_not_rise_passes_with_the_least_texts(simulation: ModuleType) -> None:
    *_, now, _ = simulation.loss_passes(simulation.Losses(ALONE, 5.0), 0.0, 183, 0.02, TRIALS)
    assert now > 0.99


@pytest.mark.long
def test_the_page_shows_the_figures_of_the_simulation(
    simulation: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation.print_levels()
    simulation.print_verdicts()
    simulation.print_losses()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    page = (ROOT / "benchmarks" / "notes" / "gates.md").read_text("utf-8")
    assert [row for row in rows if row not in page] == []
