"""A run whose questions are asked batch after batch, through Dagster: what its pages show, its release."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ft_dagster.gate.samples import read_samples
from ft_dagster.lineage.release import production
from ft_dagster.store import read_head
from tests.e2e.project import edit, questions, write_lines
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.slow
PREFIX = "tenants/acme/places"
QUIZ = 200


@pytest.mark.long
def test_a_run_that_asks_in_batches_says_what_it_asked_and_is_released(fresh: Workshop) -> None:
    write_lines(fresh.folder / "tasks" / "quiz.jsonl", questions(QUIZ))
    edit(fresh.folder / f"{PREFIX}.yaml", lambda content: content["evaluation"].update(limit="auto"))
    result = fresh.materialize("acme.places")
    assert result.success

    def shown(asset: str) -> dict[str, Any]:
        (event,) = result.asset_materializations_for_node(asset)
        return {name: value.value for name, value in event.metadata.items()}

    assert "evaluation.limit: auto asks a model that lost nothing about" in shown("training_plan")["warnings"]
    page = shown("evaluation")
    rules = [
        " ".join(map(str, record.data.values())).replace("\u200b", "") for record in page["rules"].records
    ]
    assert any(f"so that the others of {QUIZ} were not asked" in rule for rule in rules), rules
    asked = {
        stage: Counter(
            sample.task
            for sample in read_samples(
                present(read_head(fresh.store, PREFIX, stage)).folder(
                    fresh.store, fresh.settings.cache_folder
                )
                / "payload"
            )
            if sample.role == "general" and sample.metric == "acc"
        )
        for stage in ("base_evaluation", "evaluation")
    }
    assert asked == {"base_evaluation": {"sea_quiz": QUIZ}, "evaluation": {"sea_quiz": 60}}
    assert present(production(fresh.store, PREFIX)).version == 1
    again = fresh.materialize("acme.places")
    assert all(value for name, value in _reused(again).items() if name != "release")


def _reused(result: Any) -> dict[str, bool]:
    """Of each asset of the variant: whether no work was done."""
    return {
        event.asset_key.path[-1]: bool(
            event.step_materialization_data.materialization.metadata["reused"].value
        )
        for event in result.get_asset_materialization_events()
        if "reused" in event.step_materialization_data.materialization.metadata
    }
