"""What `ft-dagster status` says of a fleet: from its table, or from the store."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.automation.clusters.waiting import REASON
from ft_dagster.automation.clusters.waiting import said as tell_of_job
from ft_dagster.automation.fleet_now import FleetReader
from ft_dagster.automation.processes.instance import open_instance
from ft_dagster.automation.tags import VARIANT
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.fleet.decision import sqlite_url
from ft_dagster.fleet.due.retrain_cost import Amount
from ft_dagster.fleet.refresh.lost_store import KNOWN as KNOWN_STORE
from ft_dagster.fleet.refresh.sync_declarations import notice
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.fleet.table.version import Gain, KnownVersion
from ft_dagster.launch.leases import of_host
from ft_dagster.lineage.release import ReleaseRequest, rollback
from ft_dagster.lineage.stale import field_changed
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.spec.variant import ResourcesSpec
from tests.automation.declarations import declare
from tests.releases import adapter, release

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
GAIN = Gain("own_task", "token_f1", 0.2, 0.5)
VERSION = KnownVersion(
    3, made=NOW - 2 * DAY, digest="ab" * 32, gate="passed", gain=GAIN, spent=Amount(1.5, 4.0), counted="1"
)
RANK = field_changed("method.rank")
WORSE = "release_evaluation: check regression failed: Against production: Failed"
KNOWN: dict[str, tuple[dict[str, Any], KnownVersion | None]] = {
    "acme.approval": ({}, replace(VERSION, waiting=4)),
    "acme.child": ({}, VERSION),
    "acme.failing": ({"failures": 1, "failure": "out of memory"}, VERSION),
    "acme.fresh": ({}, VERSION),
    "acme.gate": ({}, replace(VERSION, gate="failed", verdict="Failed: 1 of 3 rules does not hold")),
    "acme.never": ({}, None),
    "acme.open": ({}, replace(VERSION, version=None, gate=None)),
    "acme.parked": ({"failures": 3, "failure": "out of memory"}, VERSION),
    "acme.running": ({"running": True}, VERSION),
    "acme.stale": ({}, replace(VERSION, causes=(RANK,), gain=GAIN._replace(after=0.9))),
    "acme.worse": ({"fruitless": 1, "failure": WORSE}, VERSION),
    "globex.damaged": ({}, KnownVersion(unread="the store cannot be read: x")),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """More variants than are read from the store each time."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr("ft_dagster.fleet.picture.EXACT_UP_TO", 3)
    for key in KNOWN:
        declare(tmp_path, key, base_model={"variant": "acme.stale"} if key == "acme.child" else "models/x")
    declare(tmp_path, "globex.gone")
    declare(tmp_path, "globex.wrong", objectiv="x")
    return tmp_path


def table_of(project: Path, looked: datetime | None = NOW) -> FleetTable:
    """As ticks left it."""
    home = project / ".ft_dagster" / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    table = FleetTable(sqlite_url(home))
    table.put(notice(table, Declarations(project), NOW).rows)
    rows = list[FleetRow]()
    for row in table.rows():
        state, version = KNOWN.get(row.key, ({}, VERSION))
        rows.append(replace(row.known(**state), version=version, learnt=True))
    table.put(rows)
    (project / "tenants/globex/gone.yaml").unlink()
    table.put(notice(table, Declarations(project), NOW).rows)
    if looked is not None:
        table.note_look(looked)
    return table


def said(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), "status", *words, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def printed(project: Path, *words: str) -> str:
    return CliRunner().invoke(app, ["--project", str(project), "status", *words]).output


def test_each_state_is_told_from_the_table_with_its_cause(project: Path) -> None:
    table_of(project)
    found = said(project)
    told = {row["variant"]: (row["state"], row["cause"]) for row in found["variants"]}
    wrong = told.pop("globex.wrong")
    assert told == {
        "acme.approval": ("approval", "v4 waits for approval"),
        "acme.child": ("stale", "acme.stale: method.rank is declared otherwise"),
        "acme.failing": ("failing", "1 run failed: out of memory"),
        "acme.fresh": ("fresh", ""),
        "acme.gate": ("failing", "Failed: 1 of 3 rules does not hold"),
        "acme.never": ("never trained", ""),
        "acme.open": ("not judged", "it was trained, and no evaluation came of it"),
        "acme.parked": ("parked", "3 runs in a row failed: out of memory"),
        "acme.running": ("running", ""),
        "acme.stale": ("stale", "method.rank is declared otherwise"),
        "acme.worse": ("failing", WORSE),
        "globex.damaged": ("broken", "the store cannot be read: x"),
        "globex.gone": ("retired", "it is declared no longer"),
    }
    assert wrong[0] == "broken"
    assert "objectiv" in wrong[1]
    assert (found["exact"], found["runs_as_of"]) == (False, NOW.isoformat(timespec="seconds"))
    assert {each["variant"] for each in found["broken"]} == {"globex.wrong", "globex.damaged"}


def test_of_one_that_is_named_all_causes_are_said(project: Path) -> None:
    release(load_settings(project).open_store(), "acme.stale", adapter(), work=project / ".ft_dagster/work")
    (project / "policy.yaml").write_text("gates: {alpha: 0.01}\n", "utf-8")
    row = said(project, "acme.stale")["variants"][0]
    lines = printed(project, "acme.stale").splitlines()
    for cause in row["causes"]:
        assert f"acme.stale is out of date: {cause['words']}" in lines
    assert len(row["causes"]) > 1


def test_what_was_released_since_the_last_tick_does_not_run_any_more(project: Path) -> None:
    def state() -> str:
        return str(said(project, "acme.running")["variants"][0]["state"])

    table = table_of(project, datetime.now(UTC))
    assert state() == "running"
    release(load_settings(project).open_store(), "acme.running", adapter(), work=project / ".ft_dagster/work")
    assert state() != "running"
    table.note_look(datetime.now(UTC) + timedelta(seconds=5))
    assert state() == "running"


def test_why_a_job_waits_in_a_cluster_is_said_as_run_and_the_fleet_page_say_it(project: Path) -> None:
    table_of(project)
    settings, line = (
        load_settings(project),
        "Ray's job dagster-run-1 waits: no node has 1 GPU. Add such nodes",
    )
    with open_instance(settings) as instance:
        run = instance.add_run(
            dg.DagsterRun("job", status=dg.DagsterRunStatus.STARTING, tags={VARIANT: "acme.running"})
        )
        tell_of_job(run, instance, line, {REASON: "no GPU"})
        (shown,) = FleetReader(instance, settings).now().runs
    (running,) = [row for row in said(project)["variants"] if row["state"] == "running"]
    assert running["progress"] == shown.waits == line
    assert line in " ".join(printed(project).split())
    (project / "ft_dagster.yaml").write_text("ray: {}\n")
    done = CliRunner().invoke(app, ["--project", str(project), "gpus"])
    assert f"acme.running waits: {line}" in " ".join(done.output.split())


def test_gpus_says_how_a_run_that_holds_a_device_is_ended(project: Path) -> None:
    shown = [CliRunner().invoke(app, ["--project", str(project), "gpus"]).output]
    leases = of_host(load_settings(project).host)
    with leases.acquire(leases.ask_of(VariantKey.parse("acme.running"), ResourcesSpec(cpu_slots=1))):
        shown.append(CliRunner().invoke(app, ["--project", str(project), "gpus"]).output)
    assert ["ft-dagster cancel VARIANT|RUN" in each for each in shown] == [False, True]


def test_what_a_person_rolls_back_ends_no_run(project: Path) -> None:
    table, store = table_of(project), load_settings(project).open_store()
    for number in (1, 2):
        release(store, "acme.running", adapter(number), f"{number}" * 64, work=project / ".ft_dagster/work")
    time.sleep(2.1)  # a release log tells the time to the second
    table.note_look(datetime.now(UTC))
    rollback(store, "tenants/acme/running", ReleaseRequest("worse", "ann"))
    assert said(project, "acme.running")["variants"][0]["state"] == "running"


def test_a_row_has_its_gain_age_and_cost(project: Path) -> None:
    table_of(project)
    (row,) = [row for row in said(project)["variants"] if row["variant"] == "acme.fresh"]
    assert row["gain"] == {**GAIN._asdict(), "better": pytest.approx(0.3)}
    assert row["age_days"] == pytest.approx(2.0, abs=0.1)
    assert (row["hours"], row["usd"], row["version"], row["over_production"]) == (1.5, 4.0, 3, None)
    (line,) = [line for line in printed(project).splitlines() if line.startswith("acme.fresh ")]
    assert line.split()[:9] == ["acme.fresh", "fresh", "v3", "+30.0", "points", "-", "2.0", "d", "1.5"]


def test_filters_choose_and_sorting_arranges(project: Path) -> None:
    table_of(project)

    def chosen(*words: str) -> list[str]:
        return [row["variant"] for row in said(project, *words)["variants"]]

    assert chosen("--stale") == ["acme.child", "acme.stale"]
    assert chosen("--failing") == ["acme.parked", "acme.failing", "acme.gate", "acme.worse"]
    assert chosen("--tenant", "globex") == ["globex.wrong", "globex.damaged", "globex.gone"]  # read now
    assert chosen("--sort", "gain", "--limit", "1") == ["acme.stale"]
    assert chosen("--sort", "variant", "--limit", "2") == ["acme.approval", "acme.child"]
    assert chosen("--limit", "0") == chosen()


def test_what_it_says_comes_with_the_time_of_its_picture(project: Path) -> None:
    table_of(project, looked=datetime(2026, 3, 2, 12, 30, tzinfo=UTC))
    last = next(line for line in printed(project).splitlines() if " variants: " in line)
    assert last.startswith(
        "14 variants: 2 broken, 1 parked, 3 failing, 1 approval, 1 not judged, 2 stale, 1 running, "
    )
    assert last.endswith("as of 2026-03-02 12:30 UTC; --exact reads the store")


def test_without_a_tick_the_store_is_read(project: Path) -> None:
    table_of(project, looked=None)
    assert said(project)["exact"]
    assert "run history not loaded yet (start the daemon)" in printed(project)


@pytest.mark.parametrize("damage", ["newer", "garbage"])
def test_a_table_that_cannot_be_used_is_said_and_the_store_is_read(project: Path, damage: str) -> None:
    file = Path(table_of(project).url.removeprefix("sqlite:///"))
    if damage == "newer":
        FleetTable(f"sqlite:///{file}").set_meta("schema_version", "99")
    else:
        file.write_bytes(b"garbage" * 1000)
    done = CliRunner().invoke(app, ["--project", str(project), "status", "acme.never", "--json"])
    (row,) = json.loads(done.stdout)["variants"]
    assert (done.exit_code, row["state"]) == (0, "never trained")
    assert "fleet.db" in done.stderr
    refused = CliRunner().invoke(app, ["--project", str(project), "status"])
    assert isinstance(refused.exception, UserError)


@pytest.mark.parametrize("words", [[], ["--exact"]])
def test_a_store_that_is_gone_is_said_and_no_state_shown(project: Path, words: list[str]) -> None:
    table_of(project).set_meta(KNOWN_STORE, load_settings(project).open_store().url)
    refused = CliRunner().invoke(app, ["--project", str(project), "status", *words])
    assert isinstance(refused.exception, UserError)
    assert "the store holds nothing" in str(refused.exception)
    assert refused.stdout == ""


@pytest.mark.parametrize("words", [["--exact"], ["acme.never"]])
def test_the_store_is_read_where_it_is_asked_for_and_for_a_few(project: Path, words: list[str]) -> None:
    """The table does not know of the release yet."""
    table_of(project)
    store = project / ".ft_dagster" / "store"
    before = {row["variant"]: row for row in said(project)["variants"]}
    release(load_settings(project).open_store(), "acme.never", adapter(), work=store.parent / "work")
    assert before["acme.never"]["version"] is None
    (row,) = [row for row in said(project, *words)["variants"] if row["variant"] == "acme.never"]
    assert (row["version"], row["state"]) == (1, "stale")
    assert row["stages"]["model_export"] == row["digest"]


@pytest.mark.parametrize(("minutes", "state"), [(0.3, "running"), (2, "never trained")])
def test_a_run_of_a_daemon_that_ended_long_ago_is_none(project: Path, minutes: float, state: str) -> None:
    table_of(project, looked=datetime.now(UTC) - timedelta(minutes=minutes))
    (row,) = said(project, "acme.running")["variants"]
    assert row["state"] == state


def test_in_a_terminal_it_fits_80_columns_and_is_cut_after_a_hundred(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ft_dagster.cli import common

    table_of(project)
    monkeypatch.setattr("ft_dagster.cli.status.SHOWN", 5)
    monkeypatch.setattr(common.out, "_width", 80)
    monkeypatch.setattr(common.out, "_force_terminal", True)
    monkeypatch.setattr(common.out, "no_color", True)
    shown = printed(project)
    tables = [line for line in shown.splitlines() if "│" in line or "━" in line]
    assert max(map(len, tables)) <= 80
    assert "9 more: --limit 0 shows all" in shown
    assert "acme.parked" in shown
    assert "acme.fresh" not in shown


def test_stale_says_of_a_variant_whose_run_failed_what_changed(project: Path) -> None:
    table = table_of(project)
    [failing] = [row for row in table.rows() if row.key == "acme.failing"]
    table.put([replace(failing, version=replace(VERSION, causes=(RANK,)))])
    assert "out of memory" in printed(project)
    stale = printed(project, "--stale")
    assert "out of memory" not in stale
    [line] = [line for line in stale.splitlines() if line.startswith("acme.failing")]
    assert "method.rank" in line


@pytest.mark.parametrize(("listed", "state"), [("[../bases]", "never trained"), ("[]", "broken")])
def test_a_base_that_the_platform_does_not_list_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, state: str
) -> None:
    """A run refuses it, though the declaration is valid and everything may stand."""
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    project = tmp_path / "project"
    declare(project, "acme.chat", base_model="../bases/x")
    (project / "ft_dagster.yaml").write_text(f"sources: {{allow: [data], bases: {listed}}}\n")
    [row] = said(project, "acme.chat")["variants"]
    assert row["state"] == state
    assert ("../bases/x" in row["cause"]) is (state == "broken")
