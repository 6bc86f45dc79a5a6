"""What the fleet costs, from the manifests of a store that is made for it."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.fleet.due import costs
from ft_dagster.fleet.due.costs import (
    CostItem,
    CostPeriod,
    cost_row,
    cost_rows,
    read_costs,
    version_name,
    versions_in,
)
from ft_dagster.gate.verdict_words import verdict_word
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.row_choices import UsageBy
from ft_dagster.store import Store
from ft_dagster.store.contents import contents_of, usage
from ft_dagster.store.removal import claim_removal, finish_removal
from tests.fleet.manifests import H100, PRICE, catalogue, judge, predicted, put, train
from tests.releases import adapter, release
from tests.stored_figures import stored_training

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[3] / "docs/fleet.md"
STAGES = ("fine_tuned_model", "evaluation")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_hours_and_dollars_are_those_of_all_devices_estimated_and_actual(
    store: Store, tmp_path: Path
) -> None:
    model = train(store, "tenants/acme/support", hours=3.0, predicted=predicted(2.5))
    judge(store, model, "pass")
    read = read_costs(store, catalogue(tmp_path))
    (row,) = cost_rows(read.items, lambda item: item.tenant)
    assert read.manifests == 2
    assert (row.name, row.trainings, row.passed) == ("acme", 1, 1)
    assert (row.planned_hours, row.training_hours, row.evaluation_hours) == (5.0, 6.0, 0.5)
    assert (row.hours, row.planned_usd, row.usd) == (6.5, 5.0 * PRICE, 6.5 * PRICE)
    assert (row.cpu_hours, row.unpriced_hours) == (0.0, 0.0)


def test_a_cpu_has_no_price_and_its_hours_are_told_apart(store: Store, tmp_path: Path) -> None:
    train(store, "tenants/acme/support", predicted=predicted(2.0, "CPU with 4 cores", 1))
    row = cost_row("all", read_costs(store, catalogue(tmp_path)).items)
    assert (row.hours, row.cpu_hours, row.unpriced_hours, row.usd) == (1.0, 1.0, 1.0, 0.0)
    assert row.usd_shown == ("-", "-")
    assert "no price is known for CPU with 4 cores (1 h): give `usd_per_hour` in gpus.yaml" in row.unpriced


def test_a_cpu_has_the_price_of_the_card_that_names_it_as_the_page_shows(
    store: Store, tmp_path: Path
) -> None:
    (cards,) = re.findall(r"```yaml\n(# gpus\.yaml\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "gpus.yaml").write_text(cards)
    train(store, "tenants/acme/support", predicted=predicted(2.0, "CPU with 4 cores", 1))
    row = cost_row("all", read_costs(store, load_catalogue(tmp_path)).items)
    assert (row.usd, row.usd_shown, row.unpriced) == (0.4, ("0.80", "0.40"), "")


def test_trainings_are_told_apart_by_what_the_gate_found(store: Store, tmp_path: Path) -> None:
    """A verdict "Passed with warnings: …" is one that passed, in the table of costs too."""
    prefix = "tenants/acme/support"
    models = {name: train(store, prefix, name) for name in ("pass", "fail", "undecided", "let pass", "none")}
    for name in ("pass", "fail", "undecided"):
        judge(store, models[name], name, name)
    let = judge(store, models["let pass"], "undecided", "let pass", passed=True)
    assert verdict_word(Verdict.from_json(let.figures["verdict"])) == "passed with warnings"
    row = cost_row("all", read_costs(store, catalogue(tmp_path)).items)
    assert (row.trainings, row.passed, row.failed, row.undecided, row.not_judged) == (5, 2, 1, 1, 1)


def test_a_training_that_is_judged_again_is_paid_once(store: Store, tmp_path: Path) -> None:
    model = train(store, "tenants/acme/support")
    judge(store, model, "fail", "first")
    judge(store, model, "pass", "second")
    row = cost_row("all", read_costs(store, catalogue(tmp_path)).items)
    assert (row.trainings, row.judged_again, row.evaluation_hours) == (1, 1, 1.0)
    assert row.passed + row.failed == 1


def test_what_was_halved_is_held_against_its_plan(store: Store, tmp_path: Path) -> None:
    plan = put(store, "training_plan", "tenants/acme/support", {}, {"predicted": predicted(4.0)})
    figures = stored_training(seconds=3600.0, micro_batch_halved=True)
    put(store, "fine_tuned_model", "tenants/acme/support", {"training_plan": plan.digest}, figures)
    assert cost_row("all", read_costs(store, catalogue(tmp_path)).items).planned_hours == 8.0


def test_what_all_share_is_nobodys_own(store: Store, tmp_path: Path) -> None:
    train(store, "tenants/acme/support", predicted=predicted(1.0))
    put(store, "general_scores", "shared", {}, {"seconds": 3600.0, "load_seconds": 0.0})
    put(store, "base_evaluation", "tenants/globex/faq", {}, {"seconds": 1800.0, "load_seconds": 0.0})
    rows = cost_rows(read_costs(store, catalogue(tmp_path)).items, lambda item: item.tenant)
    assert {row.name: row.hours for row in rows} == {"acme": 2.0, "shared": 1.0, "globex": 0.5}
    assert {row.name: row.unpriced_hours for row in rows} == {"acme": 0.0, "shared": 0.0, "globex": 0.5}


def test_probes_and_the_text_of_a_base_are_preparations(store: Store, tmp_path: Path) -> None:
    train(store, "tenants/acme/support", predicted=predicted(1.0))
    put(store, "probe", "tenants/acme/support", {}, {"seconds": 1800.0, "devices": 2})
    put(store, "base_text", "shared", {}, {"seconds": 900.0})
    put(store, "probe", "tenants/globex/faq", {}, {})  # an older version's, which says no time
    rows = {row.name: row for row in cost_rows(read_costs(store, catalogue(tmp_path)).items, tenant_of)}
    assert {name: row.preparation_hours for name, row in rows.items()} == {
        "acme": 1.0, "shared": 0.25, "globex": 0.0,
    }  # fmt: skip
    assert (rows["acme"].hours, rows["acme"].usd) == (3.0, 3.0 * PRICE)


def tenant_of(item: CostItem) -> str:
    return item.tenant


def test_a_tenant_named_as_what_all_share_is_told_apart_from_it(store: Store, tmp_path: Path) -> None:
    put(store, "evaluation", "tenants/shared/support", {}, {"seconds": 3600.0})
    put(store, "general_scores", "shared", {}, {"seconds": 1800.0})
    rows = cost_rows(read_costs(store, catalogue(tmp_path)).items, tenant_of)
    assert {row.name: row.hours for row in rows} == {"tenants/shared": 1.0, "shared": 0.5}
    sizes = {row.name: row.artifacts for row in usage(contents_of(store), UsageBy.TENANT)}
    assert sizes == {"tenants/shared": 1, "shared": 1}


def test_what_asked_the_base_is_on_the_device_of_its_own_variant(store: Store, tmp_path: Path) -> None:
    train(store, "tenants/acme/support", predicted=predicted(1.0))
    put(store, "base_evaluation", "tenants/acme/support", {}, {"seconds": 3600.0, "load_seconds": 0.0})
    train(store, "tenants/acme/faq", predicted=predicted(1.0, "CPU with 4 cores", 1))
    (base,) = (
        item for item in read_costs(store, catalogue(tmp_path)).items if item.stage == "base_evaluation"
    )
    assert (base.device, base.price) == (H100, PRICE)


def test_what_judged_weights_is_on_the_device_that_trained_them_and_not_that_of_their_equals(
    store: Store, tmp_path: Path
) -> None:
    prefix, judged = "tenants/acme/support", {}
    for device in ("CPU with 4 cores", H100, "CPU with 8 cores"):
        figures = stored_training(seconds=3600.0, predicted=predicted(1.0, device, 1))
        weights = put(store, "fine_tuned_model", prefix, {"training_plan": f"plan for {device}"}, figures)
        by, inputs = {"fine_tuned_model": weights.manifest}, {"fine_tuned_model": weights.digest}
        put(store, "evaluation", prefix, inputs, {"seconds": 60.0}, name=device, manifests=by)
        judged[weights.digest] = device
    assert len(judged) == 1
    items = read_costs(store, catalogue(tmp_path)).items
    devices = {stage: sorted(item.device for item in items if item.stage == stage) for stage in STAGES}
    assert devices["evaluation"] == devices["fine_tuned_model"]


def test_a_training_is_held_against_the_plan_that_it_names_and_not_its_equal(
    store: Store, tmp_path: Path
) -> None:
    prefix = "tenants/acme/support"
    for hours in (4.0, 1.0, 9.0):
        inputs = {"training_mixture": f"rows for {hours:g} hours"}
        plan = put(store, "training_plan", prefix, inputs, {"predicted": predicted(hours)})
        by, inputs = {"training_plan": plan.manifest}, {"training_plan": plan.digest}
        put(store, "fine_tuned_model", prefix, inputs, stored_training(), name=f"{hours:g}", manifests=by)
    planned = [item.planned for item in read_costs(store, catalogue(tmp_path)).items]
    assert sorted(hours for hours in planned if hours is not None) == [2.0, 8.0, 18.0]


def test_devices_are_found_once_however_many_evaluations_there_are(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls, devices = train(store, "tenants/acme/support"), list[Any](), costs._devices

    def counted(trained: Any) -> dict[str, str]:
        calls.append(trained)
        return devices(trained)

    monkeypatch.setattr(costs, "_devices", counted)
    for number in range(3):
        judge(store, model, "pass", str(number))
    read_costs(store, catalogue(tmp_path))
    assert len(calls) == 1


def test_versions_are_those_of_the_release_log(store: Store, tmp_path: Path) -> None:
    model = train(store, "tenants/acme/support", "first")
    train(store, "tenants/acme/support", "second")
    put(store, "base_evaluation", "tenants/acme/support", {}, {"seconds": 1.0})
    release(store, "acme.support", adapter(), model.digest)
    items = read_costs(store, catalogue(tmp_path)).items
    versions, wrong = versions_in(store, items)
    rows = cost_rows(items, lambda item: version_name(item, versions))
    assert wrong == []
    names = {row.name: row.trainings for row in rows}
    assert names == {"acme.support v1": 1, "acme.support, not released": 1, "acme.support, its base": 0}


def test_a_broken_release_log_stops_no_other(store: Store, tmp_path: Path) -> None:
    release(store, "acme.support", adapter(), train(store, "tenants/acme/support").digest)
    release(store, "globex.faq", adapter(), train(store, "tenants/globex/faq").digest)
    (Path(store.root) / "tenants/acme/support/releases/000001.json").write_text("{")
    versions, wrong = versions_in(store, read_costs(store, catalogue(tmp_path)).items)
    assert {key for key, _ in versions} == {"globex.faq"}
    assert len(wrong) == 1
    assert "000001.json" in wrong[0]


def test_a_damaged_manifest_is_named_and_stops_no_other(store: Store, tmp_path: Path) -> None:
    train(store, "tenants/acme/support")
    broken = train(store, "tenants/globex/faq")
    (Path(store.root) / broken.manifest_path).write_text("{")
    read = read_costs(store, catalogue(tmp_path))
    assert [item.tenant for item in read.items] == ["acme"]
    assert len(read.damaged) == 1
    assert broken.manifest_path in read.damaged[0]


def test_what_retention_removed_was_paid_all_the_same(store: Store, tmp_path: Path) -> None:
    model = train(store, "tenants/acme/support", predicted=predicted(1.0))
    before = read_costs(store, catalogue(tmp_path)).items
    assert claim_removal(store, model, "a test", time.time() + 60)
    finish_removal(store, model, model.files)
    assert not (Path(store.root) / model.path / "payload" / "what.txt").exists()
    assert read_costs(store, catalogue(tmp_path)).items == before


def test_a_period_has_its_first_moment_and_not_its_last() -> None:
    first, last = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    period = CostPeriod(first, last)
    assert period.has(first)
    assert not period.has(last)
    assert CostPeriod().has(last)


def test_the_dearest_comes_first() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    items = [
        CostItem(at, "cheap", "cheap.a", "evaluation", 100.0, price=0.01),
        CostItem(at, "dear", "dear.a", "evaluation", 10.0, price=1.0),
        CostItem(at, "unknown", "unknown.a", "evaluation", 5.0),
    ]
    assert [row.name for row in cost_rows(items, lambda item: item.tenant)] == ["dear", "cheap", "unknown"]
    by_name = cost_rows(items, lambda item: item.tenant, dearest_first=False)
    assert [row.name for row in by_name] == ["cheap", "dear", "unknown"]
