"""What a retrain took of devices: its training, and all that was made for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ft_dagster.fleet.device_hours import made
from ft_dagster.fleet.due.retrain_cost import PlannedCost
from ft_dagster.fleet.refresh.from_store import hours_between, paid_for
from ft_dagster.spec import VariantKey
from ft_dagster.store import Store, exclusive, write_head
from ft_dagster.store.removal import claim_removal, finish_removal
from tests.fleet.manifests import judge, put, train
from tests.s3_server import S3Server
from tests.stored_figures import stored_training

pytestmark = pytest.mark.slow
KEY, PREFIX = VariantKey("acme", "support"), "tenants/acme/support"
PLANNED = PlannedCost(1.0, 1, None)
HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def trained_by_probe(store: Store) -> None:
    """An hour of training, a half of the probe of its plan, a quarter of its evaluation."""
    probe = put(store, "probe", PREFIX, {}, {"seconds": HOUR / 2})
    plan = put(store, "training_plan", PREFIX, {"probe": probe.digest}, {})
    figures = stored_training(seconds=HOUR, training_seconds=10.0)
    model = put(store, "fine_tuned_model", PREFIX, {"training_plan": plan.digest}, figures)
    write_head(store, PREFIX, model, None)
    judge(store, model, "pass", seconds=HOUR / 4)


def next_second() -> None:
    """Manifests say when they were made to the second."""
    time.sleep(1.0 - time.time() % 1.0)


def test_before_any_training_nothing_is_known(store: Store) -> None:
    assert paid_for(store, KEY, PLANNED) is None
    put(store, "probe", PREFIX, {}, {"seconds": HOUR})
    assert paid_for(store, KEY, PLANNED) is None


def test_the_probe_of_its_plan_and_what_production_was_asked_since_belong_to_a_training(store: Store) -> None:
    put(store, "production_evaluation", PREFIX, {}, {"seconds": 100 * HOUR}, name="before")
    put(store, "probe", PREFIX, {}, {"seconds": 100 * HOUR}, name="of another plan")
    next_second()
    trained_by_probe(store)
    for stage in ("production_evaluation", "candidate_evaluation", "model_export"):
        put(store, stage, PREFIX, {}, {"seconds": HOUR / 8, "load_seconds": HOUR / 8})
    paid = paid_for(store, KEY, PLANNED)
    assert paid == (1.0, 1.0 + 0.5 + 0.25 + 3 * 0.25)


def test_the_newest_training_counts(store: Store) -> None:
    train(store, PREFIX, "first", hours=5.0)
    next_second()
    train(store, PREFIX, "second", hours=2.0)
    assert paid_for(store, KEY, None) == (0.0, 2.0)


def test_a_run_is_charged_all_that_devices_made_while_it_ran(store: Store, tmp_path: Path) -> None:
    put(store, "probe", PREFIX, {}, {"seconds": 100 * HOUR}, name="earlier")
    write_head(store, PREFIX, train(store, PREFIX, "earlier", hours=100.0), None)
    put(store, "base_text", "shared", {}, {"seconds": 100 * HOUR}, name="of others")
    next_second()
    began = datetime.now(UTC).replace(microsecond=0)
    text = put(store, "base_text", "shared", {}, {"seconds": HOUR / 4})
    scores = put(store, "general_scores", "shared", {}, {"seconds": HOUR / 4})
    made = [
        put(store, "training_mixture", PREFIX, {"general_corpus": text.digest}, {}),
        put(store, "base_evaluation", PREFIX, {"general_scores": scores.digest}, {"seconds": HOUR / 4}),
    ]
    for artifact in made:
        write_head(store, PREFIX, artifact, None)
    trained_by_probe(store)
    put(store, "candidate_evaluation", PREFIX, {}, {"seconds": HOUR / 4})
    later = datetime.now(UTC) + timedelta(hours=1)
    assert hours_between(store, KEY, began, later) == pytest.approx(3 * 0.25 + 1.5 + 0.25)
    assert hours_between(store, KEY, later, later + timedelta(hours=1)) == 0.0


def test_a_run_is_charged_the_same_after_others_came_after_it(store: Store) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    write_head(store, PREFIX, train(store, PREFIX, "first", hours=5.0), None)
    put(store, "candidate_evaluation", PREFIX, {}, {"seconds": HOUR / 4})
    ended = datetime.now(UTC)
    charged = hours_between(store, KEY, began, ended)
    next_second()
    write_head(store, PREFIX, train(store, PREFIX, "second", hours=2.0), None)
    put(store, "candidate_evaluation", PREFIX, {}, {"seconds": HOUR}, name="second")
    assert hours_between(store, KEY, began, ended) == charged == pytest.approx(5.25)


def test_a_run_is_charged_what_it_made_again_after_this_host_had_read_it(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    url = f"s3://{s3_server.bucket}/{tmp_path.name}"
    store = Store(url, s3_server.options, tmp_path / "locks", None, tmp_path / "cache")
    first = put(store, "candidate_evaluation", PREFIX, {}, {"seconds": HOUR})
    began, later = made(first), datetime.now(UTC) + timedelta(hours=1)
    assert hours_between(store, KEY, began, later) == pytest.approx(1.0)
    assert claim_removal(store, first, "a test", time.time() + 60)
    finish_removal(store, first)
    put(store, "candidate_evaluation", PREFIX, {}, {"seconds": HOUR / 2})
    assert hours_between(store, KEY, began, later) == pytest.approx(1.5)
