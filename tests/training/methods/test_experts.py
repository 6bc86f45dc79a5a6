"""A base of experts trains, is measured and is exported as any other, where its experts stay as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.exit_codes import DONE
from tests.tiny_classes import make_tiny
from tests.training.runs import Runs, result_of, train


@pytest.mark.parametrize("method", [{"dropout": 0.0}, {"name": "full"}])
def test_a_base_of_experts_trains_and_answers_general_prompts(
    runs: Runs, tmp_path: Path, method: dict[str, Any]
) -> None:
    """The loss that balances a router is summed over a step's mask, which is not that of a generation."""
    experts = replace(runs, base=make_tiny("granitemoe", tmp_path / "granite"))
    folder = experts.prepare(method=method, training={"max_steps": 2, "evaluations": 1})
    assert train(folder) == DONE
    assert "general prompts" in result_of(folder)["figures"]["measured_on"]
