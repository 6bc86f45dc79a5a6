"""Tables of experiments, as text."""

import io
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from rich.console import Console, RenderableType

from ft_dagster.lineage.verdict import RuleName
from ft_dagster.report.tables.experiments import WORDS, bakeoff_table, sweep_table
from tests.verdicts import stored_rule

RULES = [
    stored_rule(task="quiz", base=0.25, tuned=0.5, difference=0.25, interval=[0.1, 0.4]),
    stored_rule(
        rule="general_loss", task="general_holdout", metric="token_loss", base=3.0, tuned=3.2, difference=0.2,
        interval=[0.19, 0.21], outcome="fail", passed=False, higher_is_better=False,
    ),
]  # fmt: skip
FIGURES = {
    "steps": 1200, "learning_rate": 2e-4, "flops": 1.96e14, "training_seconds": 95.0,
    "peak_memory_bytes": 2.5e9, "trainable_parameters": 460_800, "size_bytes": 1_800_000,
    "validation_loss_first": 2.5, "validation_loss_best": 1.25, "rules": RULES, "gate": False,
}  # fmt: skip


def run(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "status": "done", "figures": FIGURES, "curve": [1.5, 1.25],
        "digests": {"fine_tuned_model": "ab" * 32}, **more,
    }  # fmt: skip


def text(table: RenderableType) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_methods_stand_side_by_side_with_what_they_took_of_the_budget() -> None:
    failed = run("qlora", status="failed", figures={}, curve=[], digests={})
    shown = text(bakeoff_table([run("lora"), failed], "flops=2e14"))
    for words in (
        "lora", "qlora", "1.96e+14 (98.0%)", "1.6 min", "2.5 GB", "460,800", "1.8 MB", "2.500 → 1.250",
        "25.0% → 50.0%", "+25.0 points (+10.0", "3.00 → 3.20", "+0.200 nats (+0.190", "failed",
    ):  # fmt: skip
        assert words in shown
    assert "1.6 min (79.2%)" in text(bakeoff_table([run("lora")], "minutes=2"))


def test_a_sweep_numbers_the_finished_runs_and_says_what_became_of_the_others() -> None:
    stopped = run("rank=64", status="stopped early", figures={}, curve=[2.75], digests={})
    shown = text(sweep_table([run("rank=8"), stopped], "task"))
    assert "ranked by the task" in shown
    (first,) = [line for line in shown.splitlines() if "rank=8" in line]
    assert first.split()[0] == "1"
    assert "failed" in first
    assert "abababababab" in first
    (second,) = [line for line in shown.splitlines() if "rank=64" in line]
    assert "stopped early" in second
    assert "2.750 when stopped" in second


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": "stopped early", "figures": {}, "curve": [2.75, None]}, "not finite"),
        ({"status": "stopped early", "figures": {}, "curve": []}, "-"),
        ({"figures": {**FIGURES, "validation_loss_first": None}}, "- → 1.250"),
        ({"figures": {**FIGURES, "validation_loss_best": None}, "curve": [None]}, "not finite"),
    ],
)
def test_a_loss_that_was_not_finite_or_not_measured_is_told_as_that(
    changed: Mapping[str, Any], said: str
) -> None:
    shown = text(sweep_table([run("rank=8", **changed)], "task"))
    [line] = [line for line in shown.splitlines() if "rank=8" in line]
    assert f" {said} " in line


def test_every_rule_of_a_verdict_has_its_words() -> None:
    assert set(WORDS) == set(get_args(RuleName))
