"""How often the gate errs, by the simulation of benchmarks/gates.py with its fixed seed."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.present import present

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 4000


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    file = ROOT / "benchmarks" / "gates.py"
    spec = present(importlib.util.spec_from_file_location("gate_simulation", file))
    module = importlib.util.module_from_spec(spec)
    present(spec.loader).exec_module(module)
    return module


def test_equal_models_fail_in_at_most_one_of_twenty_verdicts(simulation: ModuleType) -> None:
    rows = simulation.equal_models(TRIALS)
    assert max(failed for *_, failed in rows) <= 0.05
    assert max(failed for *_, failed in rows) > 0.02  # the tests of harm do act


def test_equal_models_pass_where_enough_is_asked(simulation: ModuleType) -> None:
    passed = {
        (questions, discordant): share for questions, discordant, share, *_ in simulation.equal_models(TRIALS)
    }
    assert passed[1000, 0.10] > 0.99
    assert passed[100, 0.20] < 0.1


def test_a_fall_as_large_as_the_margin_is_blocked_at_the_level(simulation: ModuleType) -> None:
    for fall, margin, _, passed, _, _ in simulation.planted_falls(TRIALS):
        assert passed <= (0.06 if fall == margin else 0.02)  # 0.05, and what 4000 trials vary by


def test_harm_is_shown_by_enough_questions(simulation: ModuleType) -> None:
    failed = {(fall, asked): share for fall, _, asked, _, _, share in simulation.planted_falls(TRIALS)}
    assert failed[0.06, 400] > 0.8
    assert failed[0.10, 400] > 0.99


def test_a_loss_that_did_not_change_is_no_harm(simulation: ModuleType) -> None:
    for _, above, harm in simulation.equal_losses(1000):
        assert max(above, harm) < 0.07


@pytest.mark.slow
def test_the_page_shows_the_figures_of_the_simulation(
    simulation: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    page = (ROOT / "docs" / "gates.md").read_text("utf-8")
    assert [row for row in rows if row not in page] == []
