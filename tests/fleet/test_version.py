"""What is known of a variant's version: what it gained and cost, and whether another waits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.fleet.amounts import Amount
from ft_dagster.fleet.learning import known_version
from ft_dagster.fleet.listing import unasked_places
from ft_dagster.fleet.table import FleetRow
from ft_dagster.fleet.version import KnownVersion
from ft_dagster.fleet.world import World
from ft_dagster.lineage.release import ReleaseCandidate, ReleaseRequest, record_release, rollback
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantSpec
from ft_dagster.store import Attempt, write_head
from ft_dagster.store.make import Recipe, make_artifact
from tests.certificates import certificate
from tests.fleet.fleets import NOON, costing, variant
from tests.present import present
from tests.releases import GATES, adapter, put
from tests.verdicts import stored_rule

PREFIX = "tenants/acme/support"
ROW = FleetRow(variant("acme.support"), "", NOON).known(cost=costing(4.0, usd=8.0, devices=2))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tenants").mkdir()
    return load_settings(tmp_path)


def judged(settings: Settings, number: int, score: float, *, passed: bool = True) -> tuple[Any, Any]:
    """Weights of that number, judged in half an hour at their own task, and their export."""
    store, weights = settings.open_store(), str(number) * 64
    outcome = "pass" if passed else "fail"
    rule = stored_rule(rule="task", task="own_task", metric="token_f1", base=0.2, tuned=score)
    said = {"passed": passed, "outcome": outcome, "rules": [{**rule, "passed": passed, "outcome": outcome}]}

    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "verdict.json").write_text(json.dumps(said), "utf-8")
        return {"verdict": said, "seconds": 1800.0}

    recipe = Recipe("evaluation", PREFIX, {"fine_tuned_model": weights, "gates": GATES})
    evaluation = make_artifact(store, settings.work_folder, recipe, build)
    write_head(store, PREFIX, evaluation, None)
    inputs = {"fine_tuned_model": weights, "evaluation": evaluation.digest, "base_model": "b" * 64}
    export = put(store, "model_export", PREFIX, adapter(number), inputs, work=settings.work_folder)
    return evaluation, export


def released(settings: Settings, number: int, score: float, *approvers: str) -> None:
    store = settings.open_store()
    evaluation, export = judged(settings, number, score)
    write_head(store, PREFIX, export, None)
    speaks = certificate(export.digest, str(number) * 64, "adapter")
    candidate = ReleaseCandidate(export, evaluation, Verdict(True, "pass", ()), GATES, speaks)
    request = ReleaseRequest("test", approvers=approvers)
    record_release(store, PREFIX, candidate, request, variant="acme.support", run_id=None)


def known(settings: Settings, row: FleetRow = ROW) -> KnownVersion:
    return present(known_version(World(settings), row, None))


def test_nothing_is_known_before_anything_was_trained(settings: Settings) -> None:
    assert known_version(World(settings), ROW, None) is None


def test_a_version_gains_over_its_base_and_over_the_one_that_was_served_before(settings: Settings) -> None:
    released(settings, 1, 0.5)
    first = known(settings)
    assert (first.version, first.gate, first.over_production) == (1, "passed", None)
    assert present(first.gain).better == pytest.approx(0.3)
    released(settings, 2, 0.6)
    second = known(settings)
    assert (second.version, second.waiting) == (2, None)
    assert present(second.gain).better == pytest.approx(0.4)
    assert present(second.over_production)[2:4] == (0.5, 0.6)


def test_what_did_not_pass_is_held_against_what_is_served(settings: Settings) -> None:
    released(settings, 1, 0.5)
    judged(settings, 2, 0.4, passed=False)
    found = known(settings)
    assert (found.version, found.gate) == (1, "failed")
    assert present(found.over_production).better == pytest.approx(-0.1)


def test_a_version_waits_until_it_is_served_or_taken_back(settings: Settings) -> None:
    released(settings, 1, 0.5)
    released(settings, 2, 0.6, "ann")
    assert (known(settings).version, known(settings).waiting) == (1, 2)
    released(settings, 3, 0.7)
    assert (known(settings).version, known(settings).waiting) == (3, None)
    rollback(settings.open_store(), PREFIX, ReleaseRequest("worse"))
    assert (known(settings).version, known(settings).waiting) == (1, None)


def test_the_cost_to_date_is_of_all_evaluations_on_all_devices_at_the_plans_price(settings: Settings) -> None:
    released(settings, 1, 0.5)
    first = known(settings)
    assert first.spent == Amount(1.0, 2.0)  # half an hour on two devices; four device hours cost 8 dollars
    judged(settings, 2, 0.4, passed=False)
    after = known(settings, replace(ROW, version=first))
    assert after.spent == Amount(2.0, 4.0)
    dearer = replace(ROW, version=after).known(cost=costing(4.0, usd=80.0, devices=2))
    assert known(settings, dearer).spent == after.spent  # nothing was made since: nothing is read again


def test_a_damaged_store_is_said_and_stops_no_decision(settings: Settings) -> None:
    released(settings, 1, 0.5)
    settings.open_store().write(f"{PREFIX}/heads/evaluation.json", b"{")
    assert "not a head" in known(settings).unread


def test_what_lies_elsewhere_is_looked_at_only_where_it_is_asked_for(tmp_path: Path) -> None:
    plain = {"description": "d", "owners": ["o"], "base_model": "org/base"}
    sources = {"sources": ["s3://bucket/rows.jsonl", "data/rows.jsonl"]}
    spec = VariantSpec.model_validate({**plain, "data": sources})
    assert [place.path for place in unasked_places(spec, tmp_path)] == ["s3://bucket/rows.jsonl", "org/base"]
    asked = {"on_new_data": True, "on_new_base": True}
    spec = VariantSpec.model_validate({**plain, "data": sources, "retrain": asked})
    assert unasked_places(spec, tmp_path) == []
