"""What is known of a variant's version: what it gained and cost, and whether another waits."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.fleet.due.costs import cost_row, read_costs
from ft_dagster.fleet.due.retrain_cost import Amount
from ft_dagster.fleet.refresh.from_store import known_version
from ft_dagster.fleet.refresh.listing import unasked_places
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.fleet.table.version import KnownVersion
from ft_dagster.lineage.release import ReleaseCandidate, ReleaseRequest, record_release, rollback
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declared, VariantKey, VariantSpec
from ft_dagster.store import Attempt, read_head, write_head
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.removal import claim_removal, finish_removal
from tests.certificates import certificate
from tests.e2e.project import TASK
from tests.fleet.fleets import NOON, costing, variant
from tests.present import present
from tests.releases import GATES, adapter, put
from tests.stored_figures import stored_training
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
    return present(known_version(SharedState(settings), row, None))


def test_nothing_is_known_before_anything_was_trained(settings: Settings) -> None:
    assert known_version(SharedState(settings), ROW, None) is None


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


def trained(settings: Settings, number: int) -> None:
    """An hour on four GPUs, of the weights of that number."""
    predicted = {"hardware": "NVIDIA H100 80GB HBM3", "layout": {"method": "lora", "gpus": 4}, "hours": 1.5}

    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "what.txt").write_text(str(number))
        return stored_training(seconds=3600.0, training_seconds=10.0, predicted=predicted)

    recipe = Recipe("fine_tuned_model", PREFIX, {"training_plan": str(number) * 64})
    write_head(
        settings.open_store(),
        PREFIX,
        make_artifact(settings.open_store(), settings.work_folder, recipe, build),
        None,
    )


def price(settings: Settings, usd: float) -> None:
    (settings.project / "gpus.yaml").write_text(f"cards:\n  H100-80GB: {{usd_per_hour: {usd}}}\n")


def said_by_cost(settings: Settings) -> Amount:
    items = read_costs(settings.open_store(), load_catalogue(settings.project)).items
    row = cost_row("acme.support", [item for item in items if item.variant == "acme.support"])
    return Amount(row.hours, row.usd)


def test_the_cost_to_date_is_what_cost_says_of_all_that_was_made(settings: Settings) -> None:
    price(settings, 2.0)
    trained(settings, 1)
    released(settings, 1, 0.5)
    first = known(settings)
    assert first.spent == said_by_cost(settings) == Amount(4.5, 9.0)  # judged for half an hour on one device
    judged(settings, 2, 0.4, passed=False)
    after = known(settings, replace(ROW, version=first))
    assert after.spent == said_by_cost(settings) == Amount(5.0, 10.0)
    price(settings, 3.0)
    assert known(settings, replace(ROW, version=after)).spent == said_by_cost(settings) == Amount(5.0, 15.0)


def test_what_was_removed_and_made_again_was_paid_twice(settings: Settings) -> None:
    trained(settings, 1)
    first, store = known(settings), settings.open_store()
    model = present(read_head(store, PREFIX, "fine_tuned_model"))
    assert claim_removal(store, model, "a test", time.time() + 60)
    finish_removal(store, model, model.files)
    trained(settings, 1)
    assert first.spent.hours == 4.0
    assert known(settings, replace(ROW, version=first)).spent == said_by_cost(settings)
    assert said_by_cost(settings).hours == 8.0


def test_an_old_manifest_that_is_damaged_takes_its_own_cost_alone(settings: Settings) -> None:
    trained(settings, 1)
    store = settings.open_store()
    old = present(read_head(store, PREFIX, "fine_tuned_model"))
    trained(settings, 2)
    store.write(old.manifest_path, b"{")
    found = known(settings)
    assert (found.unread, found.spent.hours) == ("", 4.0)
    assert found.spent == said_by_cost(settings)


def test_what_was_spent_is_not_read_again_where_nothing_changed(settings: Settings) -> None:
    trained(settings, 1)
    first = replace(known(settings), spent=Amount(7.0, 7.0))
    assert known(settings, replace(ROW, version=first)).spent == first.spent


def test_a_broken_catalogue_takes_the_dollars_alone(settings: Settings) -> None:
    trained(settings, 1)
    (settings.project / "gpus.yaml").write_text("cards: 1\n")
    found = known(settings)
    assert (found.unread, found.spent) == ("", Amount(4.0, 0.0))


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


def test_a_metric_is_held_against_the_policy_by_the_name_that_a_yaml_calls_its_task(
    settings: Settings,
) -> None:
    """As a run does: what the policy lists is a file, what a gate names is the task that it declares."""
    project = settings.project
    (project / "tasks").mkdir()
    (project / "tasks/sea.yaml").write_text(
        yaml.safe_dump({**TASK, "dataset_kwargs": {"data_files": {"test": "q.jsonl"}}})
    )
    (project / "tasks/q.jsonl").write_text('{"question": "q", "choices": ["a", "b", "c"], "answer": 0}\n')
    (project / "policy.yaml").write_text("evaluation: {general: [tasks/sea.yaml]}\n")
    declared = {
        "description": "d", "owners": ["o"], "base_model": "b", "data": {"sources": ["rows.jsonl"]},
        "evaluation": {"general": ["tasks/sea.yaml"]}, "gates": {"metrics": {"sea_quiz": "acc"}},
    }  # fmt: skip
    spec = VariantSpec.model_validate(declared)
    found = SharedState(load_settings(project)).of(
        Declared(VariantKey("acme", "support"), project / "x.yaml", spec, {})
    )
    assert [breach.field for breach in found.breaches] == ["gates.metrics.sea_quiz"]
