"""How often a gate that is asked batch after batch errs, by benchmarks/sequential.py with its fixed seed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ft_dagster.gate.gates import judge
from ft_dagster.gate.sampling import order_of_asking
from ft_dagster.gate.sequential_looks import Order
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import sample
from tests.present import present

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 2000


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    file = ROOT / "benchmarks" / "sequential.py"
    spec = present(importlib.util.spec_from_file_location("sequential_simulation", file))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    present(spec.loader).exec_module(module)
    return module


def test_a_fall_as_large_as_the_margin_passes_at_most_at_the_level_and_equal_models_do_not_fail(
    simulation: ModuleType,
) -> None:
    """Answers, lumps, rare large rises, groups; the level of a first try is 2.5%."""
    for family, fallen, equal in simulation.levels(TRIALS // 2):
        assert fallen.passed <= 0.025 + 0.01, family  # what 1,000 trials vary by
        assert equal.failed <= 0.05 / 4, family


def test_equal_models_fail_in_at_most_one_of_twenty_verdicts(simulation: ModuleType) -> None:
    shares = [failed for _, failed in simulation.equal_verdicts(TRIALS)]
    assert 0.005 < max(shares) <= 0.05


@pytest.mark.long
def test_it_asks_at_most_six_tenths_of_what_one_look_asks_and_sees_as_much(simulation: ModuleType) -> None:
    rows = simulation.usual(TRIALS)
    assert max(simulation.savings(rows)) <= 0.61  # 58% and 59% of 10,000 trials
    assert all(found[0.0].passed > 0.94 for _, found, _ in rows)
    assert all(found[1.0].failed > 0.9 for _, found, _ in rows)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (3, 4), (30, 2), (12, 12)])
def test_the_simulation_decides_as_the_gate_does(simulation: ModuleType, lost: int, gained: int) -> None:
    """The same changes at every look, by shares: of the simulation all trials, of the gate one verdict."""
    there, margin = 300, 0.1
    order = order_of_asking([f"exam:0:{n:04x}" for n in range(there)], 0)
    changes = [0.0] * there
    for count, change, offset in ((lost, -1.0, 0), (gained, 1.0, 150)):
        for n in range(count):
            changes[(offset + n * 7) % there] = change
    base = [
        sample(0, 0.5 - c / 2, role="task", task="exam", question=q)
        for q, c in zip(order, changes, strict=True)
    ]
    tuned = [
        sample(0, 0.5 + c / 2, role="task", task="exam", question=q)
        for q, c in zip(order, changes, strict=True)
    ]
    gates = GatesSpec(task_margin=margin)
    (rule,) = judge(base, tuned, gates, order=Order.of(base, 0)).rules

    class Drawn:
        """Instead of random draws: what the changes come to between two looks."""

        def __init__(self) -> None:
            self.at = 0

        def multinomial(self, units: int, shares: object, trials: int) -> list[list[int]]:
            part = changes[self.at : self.at + units]
            self.at += units
            return [[part.count(-1.0), part.count(1.0), part.count(0.0)]]

    family = simulation.answers(0.15, margin, there=there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation.np.random, "default_rng", lambda seed: Drawn())
        found = simulation.simulate(family, 0.0, trials=1, rules=1)
    said = "pass" if found.passed else "fail" if found.failed else "undecided"
    assert (said, found.questions) == (rule.outcome, rule.questions)


@pytest.mark.long
def test_the_page_shows_the_figures_of_the_simulation(
    simulation: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation.print_all()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| ", "In the mean"))]
    page = (ROOT / "benchmarks" / "notes" / "gates-in-batches.md").read_text("utf-8")
    assert [row for row in rows if row not in page] == []
