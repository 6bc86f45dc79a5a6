"""What happened is told to the targets that a declaration names, once for each that it happened."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.partitions import GRAPH
from ft_dagster.automation.cursor import InstanceCursor
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.notify import open_outbox, tell, told_events
from ft_dagster.build import default_resources as resources
from ft_dagster.fleet.events.events import released_events
from ft_dagster.lineage.erasures import REQUEST, ErasureEntry, append
from ft_dagster.lineage.release import ReleaseRequest, history, promote, rollback
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.store import Attempt, Store, write_head
from ft_dagster.store.make import Recipe, make_artifact
from tests.automation.declarations import declare, ticked
from tests.automation.retries import RETRIES, decide_on_retries
from tests.automation.ticks import DAY, HOUR, report_release
from tests.fleet.tables import row_of
from tests.instances import new_instance
from tests.present import present
from tests.releases import adapter, release

pytestmark = pytest.mark.slow
ROW = "a row of the tenant"
UI = "https://dagster.example.com"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with new_instance(RETRIES) as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tenants").mkdir()
    settings(tmp_path)
    return tmp_path


def settings(project: Path, **targets: Any) -> None:
    targets = targets or {"log": {"file": "events.jsonl"}, "other": {"file": "other.jsonl"}}
    content = {"notifications": {"targets": targets, "ui": UI}}
    (project / "ft_dagster.yaml").write_text(json.dumps(content))


def told(
    project: Path, instance: dg.DagsterInstance, cursor: str | None = None, now: datetime | None = None
) -> str:
    """A tick; its cursor."""
    loaded, at = load_settings(project), now or datetime.now(UTC)
    return str(tell(instance, loaded, Declarations(project), cursor, at).seen)


def lines(project: Path, name: str = "events") -> list[dict[str, Any]]:
    file = project / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def freeze(project: Path, key: str, **spec: Any) -> None:
    """What the newest run of a variant found declared."""
    store, prefix = load_settings(project).open_store(), VariantKey.parse(key).prefix

    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "declaration.json").write_text(json.dumps({"spec": spec}))
        return {}

    frozen = make_artifact(store, project / "work", Recipe("declaration", prefix), build)
    write_head(store, prefix, frozen, None)


def failed_run(
    instance: dg.DagsterInstance, key: str, *checks: dg.AssetCheckEvaluation, step: str = ""
) -> str:
    """A run of the chain that failed by its blocking checks, or in a step."""

    @dg.op(name=step or "nothing")
    def only() -> None:
        raise dg.Failure(f"line 3: not a text (got {ROW})")

    @dg.job
    def variant_chain() -> None:
        only()

    tags = {"dagster/partition": key}
    if step:
        run_id = variant_chain.execute_in_process(instance=instance, tags=tags, raise_on_error=False).run_id
    else:
        run_id = instance.create_run_for_job(variant_chain, tags=tags).run_id
        for check in checks:
            kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
            event = dg.DagsterEvent(kind, "variant_chain", event_specific_data=check)
            instance.report_dagster_event(event, run_id)
        instance.report_run_failed(present(instance.get_run_by_id(run_id)), "a check did not hold")
    instance.add_run_tags(run_id, {"dagster/will_retry": "false"})
    return run_id


def check(asset: str, name: str, said: str, **figures: int) -> dg.AssetCheckEvaluation:
    metadata = {figure: dg.MetadataValue.int(value) for figure, value in figures.items()}
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(asset),
        check_name=name,
        passed=False,
        metadata=metadata,
        description=said,
        blocking=True,
    )


def test_a_gate_that_failed_is_told_in_the_words_of_its_rule(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.support", notify=["log"])
    run_id = failed_run(
        instance, "acme.support", check("evaluation", "gate", "fail: SciQ fell by 22 points", fail=1)
    )
    told(project, instance)
    (said,) = lines(project)
    assert (said["kind"], said["sentence"]) == ("gate_failed", "fail: SciQ fell by 22 points")
    assert (said["tenant"], said["variant"]) == ("acme", "acme.support")
    assert said["link"] == f"{UI}/runs/{run_id}"
    assert lines(project, "other") == []


def test_a_version_worse_than_production_is_told_as_a_failed_gate(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.support", notify=["log"])
    worse = "Against production: Failed: 1 of 2 rules does not hold"
    failed_run(instance, "acme.support", check("release_evaluation", "regression", worse, fail=1))
    told(project, instance)
    (said,) = lines(project)
    assert (said["kind"], said["sentence"]) == ("gate_failed", worse)


def test_what_was_left_open_is_no_failure(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.support", notify=["log"])
    failed_run(instance, "acme.support", check("evaluation", "gate", "undecided", fail=0, undecided=2))
    told(project, instance)
    assert [said["kind"] for said in lines(project)] == ["undecided"]


def test_errors_of_steps_and_checks_that_may_hold_rows_are_not_told(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.support", notify=["log"])
    failed_run(instance, "acme.support", step="task_dataset")
    failed_run(instance, "acme.support", check("training_mixture", "own_records", f"{ROW} in x.jsonl"))
    failed_run(instance, "acme.support", check("training_plan", "fits", "needs 90 GB of 80"))
    told(project, instance)
    assert sorted(said["sentence"] for said in lines(project)) == [
        "task_dataset failed; its run says why",
        "training_mixture: check own_records did not hold",
        "training_plan: check fits did not hold: needs 90 GB of 80",
    ]
    assert ROW not in (project / "events.jsonl").read_text()


def test_a_run_that_dagster_runs_again_is_not_told_of(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.support", notify=["log"])
    decide_on_retries(instance)
    run_id = failed_run(instance, "acme.support", step="evaluation")
    instance.add_run_tags(run_id, {"dagster/will_retry": "true"})
    cursor = told(project, instance)
    assert lines(project) == []
    instance.add_run_tags(run_id, {"dagster/will_retry": "false"})
    told(project, instance, cursor)
    assert len(lines(project)) == 1


def test_a_run_that_dagster_never_ran_again_as_it_said_is_told_of(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.support", notify=["log"])
    decide_on_retries(instance)
    run_id = failed_run(instance, "acme.support", step="evaluation")
    instance.add_run_tags(run_id, {"dagster/will_retry": "true"})
    soon = datetime.now(UTC) + HOUR / 2
    cursor = told(project, instance, now=soon)
    assert lines(project) == []
    decide_on_retries(instance)
    cursor = told(project, instance, cursor, soon + HOUR)
    assert [said["kind"] for said in lines(project)] == ["run_failed"]
    assert InstanceCursor.of(cursor, soon).runs > soon.timestamp()


def test_a_variant_that_names_nobody_tells_nobody(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.support")
    declare(project, "acme.typo", notify=["nobody"])
    failed_run(instance, "acme.support", step="evaluation")
    failed_run(instance, "acme.typo", step="evaluation")
    told(project, instance)
    assert lines(project) == lines(project, "other") == []


def test_a_partition_that_is_no_variant_and_a_name_that_is_no_text_stop_nobody(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.odd", notify=[{"ops": 1}, "log"])
    declare(project, "acme.support", notify=["log"])
    for key in ("../x", "acme.odd", "acme.support"):
        failed_run(instance, key)
    instance.report_runless_asset_event(dg.AssetMaterialization("release", partition="../x"))
    told(project, instance)
    assert sorted(said["variant"] for said in lines(project)) == ["acme.odd", "acme.support"]


def test_a_release_log_that_does_not_hold_stops_no_other(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.support", notify=["log"])
    declare(project, "acme.torn", notify=["log"])
    store = load_settings(project).open_store()
    for key in ("acme.support", "acme.torn"):
        release(store, key, adapter(), "a" * 64)
        report_release(instance, key)
    (Path(store.root) / "tenants/acme/torn/releases/000001.json").write_text("{")
    told(project, instance)
    assert [said["variant"] for said in lines(project)] == ["acme.support"]


def test_what_becomes_of_versions_is_told(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.support", notify=["log", "other"])
    store, prefix = load_settings(project).open_store(), "tenants/acme/support"
    release(store, "acme.support", adapter(1), "a" * 64)
    report_release(instance, "acme.support")
    cursor = told(project, instance)
    release(store, "acme.support", adapter(2), "c" * 64)
    rollback(store, prefix, ReleaseRequest("too long", "ann"), 1)
    promote(store, prefix, 2, ReleaseRequest("better", "bob"), force=True)
    report_release(instance, "acme.support")
    told(project, instance, cursor)
    said = [(each["kind"], each["version"], each["sentence"]) for each in lines(project)]
    assert sorted(said) == [
        ("released", 1, "version 1 passed its gate and is in production"),
        ("released", 2, "version 2 passed its gate and is in production"),
        ("released", 2, "version 2 was put into production by bob"),
        ("rolled_back", 1, "version 1 is in production again, in place of version 2"),
    ]
    assert len({each["id"] for each in lines(project)}) == 4
    assert {each["id"] for each in lines(project, "other")} == {each["id"] for each in lines(project)}


def two_versions(project: Path, instance: dg.DagsterInstance) -> Store:
    """Released by runs, and shown."""
    declare(project, "acme.support", notify=["log"])
    store = load_settings(project).open_store()
    release(store, "acme.support", adapter(1), "a" * 64)
    release(store, "acme.support", adapter(2), "c" * 64)
    report_release(instance, "acme.support", entries=2)
    return store


def test_a_rollback_that_nobody_showed_is_told_once_however_late(
    project: Path, instance: dg.DagsterInstance
) -> None:
    """Its command was killed after it wrote the log, or Dagster's database was away."""
    store, now = two_versions(project, instance), datetime.now(UTC)
    ticked(project, instance, now)
    cursor = told(project, instance)
    rollback(store, "tenants/acme/support", ReleaseRequest("worse", "ann"))
    for later in (HOUR, 3 * DAY, 3 * DAY + HOUR, 10 * DAY):  # the first two while no daemon learns of it
        if later > 3 * DAY:
            ticked(project, instance, now + later)
        cursor = told(project, instance, cursor, now + later)
    said = [each["sentence"] for each in lines(project) if each["kind"] == "rolled_back"]
    assert said == ["version 1 is in production again, in place of version 2"]
    assert len(lines(project)) == 3


def test_the_next_release_tells_what_nobody_showed_before_it(
    project: Path, instance: dg.DagsterInstance
) -> None:
    store, now = two_versions(project, instance), datetime.now(UTC)
    cursor = told(project, instance)
    rollback(store, "tenants/acme/support", ReleaseRequest("worse", "ann"))
    cursor = told(project, instance, cursor, now + 2 * DAY)
    report_release(instance, "acme.support", entries=3)
    told(project, instance, cursor, now + 2 * DAY + HOUR)
    assert sorted(each["kind"] for each in lines(project)) == ["released", "released", "rolled_back"]


def test_a_version_that_waits_for_approval_is_told(project: Path, instance: dg.DagsterInstance) -> None:
    store = load_settings(project).open_store()
    release(store, "acme.support", adapter(1), "a" * 64)
    (entry,) = history(store, "tenants/acme/support")
    waits = replace(entry, production=None)
    (event,) = released_events([waits], None)
    assert event.kind == "approval_waiting"
    assert event.sentence == "version 1 passed its gate and waits for approval; none is in production"


def test_a_tick_that_is_made_again_tells_nothing_again(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.support", notify=["log"])
    failed_run(instance, "acme.support", step="evaluation")
    told(project, instance)
    told(project, instance)
    assert len(lines(project)) == 1


def test_a_record_that_was_lost_is_told_again_by_the_same_ids(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.support", notify=["log"])
    failed_run(instance, "acme.support", step="evaluation")
    told(project, instance)
    Path(open_outbox(instance, load_settings(project)).url.removeprefix("sqlite:///")).unlink()
    told(project, instance)
    first, second = lines(project)
    assert first == second


def test_a_broken_declaration_is_told_once_and_without_its_values(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, "acme.support", notify=["log"], objective="never-to-be-seen")
    ticked(project, instance, datetime.now(UTC))
    cursor = told(project, instance)
    told(project, instance, cursor)
    (said,) = lines(project)
    assert said["kind"] == "declaration_broken"
    assert "objective" in said["sentence"]
    assert "never-to-be-seen" not in said["sentence"]
    time.sleep(0.01)
    declare(project, "acme.support", notify=["log"], objective="another")
    ticked(project, instance, datetime.now(UTC))
    told(project, instance, cursor)
    assert len(lines(project)) == 2


def test_a_declaration_with_a_syntax_error_is_told_to_the_platforms_targets(
    project: Path, instance: dg.DagsterInstance
) -> None:
    """Nobody knows whom it names: it goes to those that no other tenant has to itself."""
    names = ("log", "other", "globex", "acme", "both")
    settings(project, **{name: {"file": f"{name}.jsonl"} for name in names})
    declare(project, "globex.support", notify=["globex", "both"])
    declare(project, "acme.support", notify=["acme", "both"])
    file = project / "tenants/acme/wrong.yaml"
    file.write_text("description: x\nowners: [never-to-be-seen\nnotify: [globex]\n")
    ticked(project, instance, datetime.now(UTC))
    cursor = told(project, instance)
    told(project, instance, cursor)
    for target in ("log", "other", "acme", "both"):
        (said,) = lines(project, target)
        assert (said["kind"], said["variant"]) == ("declaration_broken", "acme.wrong")
        assert said["sentence"] == f"{file}, line 3: it cannot be read; `ft-dagster check` says why"
    assert lines(project, "globex") == []


def test_a_storage_that_cannot_be_reached_is_told_as_no_broken_declaration(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(project, "acme.support", notify=["log"])

    def cut(*asked: Any) -> bytes:
        raise ConnectionResetError("reset by peer")

    with monkeypatch.context() as away:
        away.setattr(Store, "read", cut)
        ticked(project, instance, datetime.now(UTC))
        row = row_of(open_fleet(instance, load_settings(project)), "acme.support")
        assert present(row.state.broken).startswith("the storage could not be reached: ")
        told(project, instance)
    assert lines(project) == []
    ticked(project, instance, datetime.now(UTC))
    assert row_of(open_fleet(instance, load_settings(project)), "acme.support").state.broken is None


def test_a_declaration_that_cannot_be_read_is_told_to_whom_its_newest_run_named(
    project: Path, instance: dg.DagsterInstance
) -> None:
    freeze(project, "acme.support", notify=["log"])
    declare(project, "acme.support")
    (project / "tenants" / "acme" / "support.yaml").write_text("x: [\n")
    ticked(project, instance, datetime.now(UTC))
    told(project, instance)
    assert [said["kind"] for said in lines(project)] == ["declaration_broken"]


def test_a_run_whose_declaration_is_gone_is_told_to_whom_it_named(
    project: Path, instance: dg.DagsterInstance
) -> None:
    freeze(project, "acme.support", notify=["log"])
    failed_run(instance, "acme.support", step="evaluation")
    told(project, instance)
    assert [said["kind"] for said in lines(project)] == ["run_failed"]


def test_after_days_without_a_daemon_every_release_is_told_however_many_ticks_it_takes(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.automation.notify.MOST_RELEASES", 1)
    for number, key in enumerate(("acme.support", "globex.faq")):
        declare(project, key, notify=["log"])
        release(load_settings(project).open_store(), key, adapter(number), str(number) * 64)
        instance.report_runless_asset_event(dg.AssetMaterialization("release", partition=key))
    cursor = str(InstanceCursor((datetime.now(UTC) - timedelta(minutes=1)).timestamp(), 0))
    for minute in range(3):
        later = datetime.now(UTC) + timedelta(days=3, minutes=minute)
        seen = tell(instance, load_settings(project), Declarations(project), cursor, later).seen
        cursor = str(seen)
    assert {said["variant"] for said in lines(project)} == {"acme.support", "globex.faq"}
    assert seen.runs > datetime.now(UTC).timestamp()


def test_a_parked_variant_is_told_once(project: Path, instance: dg.DagsterInstance) -> None:
    retrain = {"cron": "* * * * *", "max_attempts": 1}
    declare(project, "acme.support", notify=["log"], retrain=retrain)
    now = datetime.now(UTC)
    ticked(project, instance, now - timedelta(minutes=5))
    time.sleep(0.01)
    failed_run(instance, "acme.support")
    ticked(project, instance, now)
    cursor = told(project, instance)
    told(project, instance, cursor)
    assert sorted(said["kind"] for said in lines(project)) == ["parked", "run_failed"]


def test_an_erasure_that_is_due_is_told_once_a_reminder(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.support", notify=["log"])
    store, now = load_settings(project).open_store(), datetime.now(UTC)
    due = (now + timedelta(days=3)).date().isoformat()
    asked = ErasureEntry(REQUEST, "r1", "acme", "ann", "art. 17", due=due, retrains=("acme.support",))
    append(store, "acme", lambda _: asked)
    broken = store.uri("erasures/globex/000001.json")
    Path(broken).parent.mkdir(parents=True)
    Path(broken).write_text("{}")  # stops nobody else's
    cursor = told(project, instance)
    cursor = told(project, instance, cursor)
    told(project, instance, cursor, now + timedelta(days=2))
    told_of = [(said["kind"], said["variant"], said["at"][:10]) for said in lines(project)]
    days = [now.date().isoformat(), (now + timedelta(days=2)).date().isoformat()]
    assert told_of == [("erasure_due", "acme.support", day) for day in days]
    assert f"request r1 for an erasure is due on {due}" in lines(project)[0]["sentence"]


def test_the_sensor_reads_nothing_while_no_target_is_declared(
    project: Path, instance: dg.DagsterInstance
) -> None:
    (project / "ft_dagster.yaml").write_text("{}")
    with dg.build_sensor_context(instance, cursor="{}", resources=resources(str(project))) as context:
        skipped = told_events(GRAPH).evaluate_tick(context)
    assert "no targets" in str(skipped.skip_message)
    assert not (Path(instance.root_directory) / "notifications.db").exists()


def test_the_sensor_says_how_many_were_told_and_why_a_target_took_none(
    project: Path, instance: dg.DagsterInstance
) -> None:
    settings(project, log={"file": "events.jsonl"}, hook={"webhook": "http://127.0.0.1:1/secret-path"})
    declare(project, "acme.support", notify=["log", "hook"])
    failed_run(instance, "acme.support", step="evaluation")
    with dg.build_sensor_context(instance, resources=resources(str(project))) as context:
        skipped = told_events(GRAPH).evaluate_tick(context)
    assert skipped.skip_message == "events: 1 new, 1 told"
    assert InstanceCursor.of(context.cursor, datetime.now(UTC)).runs > 0
