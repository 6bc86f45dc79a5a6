"""A host's own asset as a source: taken over by content, and a reason to retrain for those who read it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.automation.due import tick
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.upstream import look_at_new_snapshots, outdated_snapshots
from ft_dagster.build import build_defs, default_resources
from ft_dagster.data.sources.upstream import read_snapshot
from ft_dagster.fleet.refresh.watching import look
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.stages import declaration, task_dataset
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import rows, write_lines, write_yaml
from tests.instances import new_instance
from tests.present import present

pytestmark = pytest.mark.slow
NAME, ADDRESS = "warehouse/tickets", "asset://warehouse/tickets"
KEY = dg.AssetKey(["warehouse", "tickets"])
SNAPSHOT = dg.AssetKey(["models", "upstream", "warehouse", "tickets"])
READS, READS_NOT = VariantKey("acme", "support"), VariantKey("acme", "places")


class HostProject:
    """A code location with an asset of its own, whose rows stand in a file, beside a project's graph."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.project, self.returned, self.instance = folder / "project", folder / "returned.json", instance
        self.returns(rows(40))
        write_lines(self.project / "data" / "rows.jsonl", rows(40))
        write_yaml(
            self.project / "policy.yaml", {"evaluation": {"general": "none", "decontaminate": "optional"}}
        )
        self.allows([".", ADDRESS])
        self.declares(READS, {"asset": NAME})
        self.declares(READS_NOT, "data/rows.jsonl")

    def returns(self, value: Any) -> None:
        self.returned.write_text(json.dumps(value))

    def allows(self, places: list[str]) -> None:
        write_yaml(
            self.project / "ft_dagster.yaml", {"sources": {"allow": places}, "fleet": {"spread_hours": 0}}
        )

    def declares(self, key: VariantKey, source: Any) -> None:
        write_yaml(
            self.project / "tenants" / key.tenant / f"{key.variant}.yaml",
            {
                "description": "answers where things are",
                "owners": ["ml@acme.example"],
                "base_model": "models/base",
                "data": {"sources": [source], "decontaminate": {"enabled": False}, "splits": {"minimum": 1}},
                "evaluation": {"general": []},
                "retrain": {"on_new_data": True, "quiet_minutes": 0},
            },
        )

    @property
    def settings(self) -> Settings:
        return load_settings(self.project)

    @property
    def definitions(self) -> dg.Definitions:
        """As the code location is when it is loaded."""

        @dg.asset(key=KEY)
        def tickets() -> Any:
            return json.loads(self.returned.read_text())

        own = dg.Definitions(assets=[tickets], executor=dg.in_process_executor)
        return dg.Definitions.merge(own, build_defs(self.project, key_prefix="models"))

    def run(self, *keys: dg.AssetKey) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance, asset_selection=list(keys), raise_on_error=False
        )

    def takes_over(self) -> None:
        """What the host's daemon does once the asset was materialized."""
        assert self.run(KEY).success
        graph = present(_graph(self.project))
        [request] = outdated_snapshots(self.instance, self.settings, graph, datetime.now(UTC))
        assert list(present(request.asset_selection)) == [SNAPSHOT]
        assert self.run(SNAPSHOT).success
        assert outdated_snapshots(self.instance, self.settings, graph, datetime.now(UTC)) == []

    def prepares(self, key: VariantKey) -> Workspace:
        written = (self.project / "data" / "rows.jsonl").stat().st_ctime
        time.sleep(max(0.0, written + 1 - time.time()))  # a head tells its time in whole seconds
        workspace = Workspace(self.settings, key, RunOf("run", "test", lambda line: None))
        workspace.make(declaration.STAGE)
        workspace.make(task_dataset.STAGE)
        return workspace

    def ticks(self, at: datetime) -> list[str | None]:
        """The variants that are due."""
        declarations, graph = Declarations(self.project), _graph(self.project)
        asked = tick(self.instance, self.settings, declarations, None, at, graph=graph)
        return [request.partition_key for request in asked.requests]

    def looks(self, at: datetime) -> tuple[str, ...]:
        table = open_fleet(self.instance, self.settings, _graph(self.project))
        look_at_new_snapshots(table, self.settings, _graph(self.project))
        return look(table, self.settings, at).changed


def _graph(project: Path) -> Any:
    from ft_dagster.assets.partitions import Graph

    return Graph.of("models", str(project), load_settings(project).upstream_assets)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostProject]:
    with new_instance() as instance:
        yield HostProject(tmp_path, instance)


def failure_of(done: dg.ExecuteInProcessResult) -> str:
    [failed] = [event for event in done.all_events if event.event_type_value == "STEP_FAILURE"]
    return str(present(failed.step_failure_data.error).message)


@pytest.mark.long
def test_an_update_is_a_reason_to_retrain_for_those_who_read_it_alone(host: HostProject) -> None:
    host.takes_over()
    for key in (READS, READS_NOT):
        host.prepares(key)
    now = datetime.now(UTC)
    assert host.ticks(now) == []
    assert host.looks(now) == ()
    host.returns(rows(60))
    host.takes_over()
    assert host.looks(now + timedelta(minutes=1)) == ("acme.support",)  # before the declared poll
    assert host.ticks(now + timedelta(minutes=2)) == ["acme.support"]


@pytest.mark.long
def test_equal_rows_are_no_reason_whatever_their_data_version(host: HostProject) -> None:
    host.takes_over()
    before = host.prepares(READS)
    now = datetime.now(UTC)
    host.ticks(now)
    host.takes_over()
    assert host.looks(now + timedelta(hours=2)) == ()
    after = host.prepares(READS)
    upstream = [w.frozen["upstream"][ADDRESS] for w in (before, after)]
    assert upstream[0]["data_version"] != upstream[1]["data_version"]
    assert after.upstream("task_dataset").digest == before.upstream("task_dataset").digest
    assert after.upstream("task_dataset").place == before.upstream("task_dataset").place


def test_the_provenance_says_which_materialization_was_read(host: HostProject) -> None:
    host.takes_over()
    workspace = host.prepares(READS)
    event = present(host.instance.get_latest_materialization_event(KEY))
    origin = workspace.frozen["upstream"][ADDRESS]
    assert (
        origin["data_version"] == present(present(event.asset_materialization).tags)["dagster/data_version"]
    )
    assert (origin["run_id"], origin["rows"]) == (event.run_id, 40)
    [[frozen]] = workspace.frozen["sources"]
    assert (frozen["path"], frozen["sha256"]) == (ADDRESS, origin["sha256"])
    assert workspace.upstream("task_dataset").figures["read"] == 40
    assert "upstream" not in host.prepares(READS_NOT).frozen


def test_each_partition_that_was_materialized_is_read(host: HostProject) -> None:
    days = dg.StaticPartitionsDefinition(["monday", "tuesday", "wednesday"])

    @dg.asset(key=KEY, partitions_def=days)
    def tickets(context: dg.AssetExecutionContext) -> list[dict[str, str]]:
        return [{"instruction": context.partition_key, "output": "x"}]

    definitions = dg.Definitions.merge(
        dg.Definitions(assets=[tickets]), build_defs(host.project, key_prefix="models")
    )
    for day in ("tuesday", "monday"):
        dg.materialize([tickets], instance=host.instance, partition_key=day)
    job = definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=host.instance, asset_selection=[SNAPSHOT]).success
    [file] = (host.project / ".ft_dagster" / "upstream" / NAME).glob("*.jsonl")
    said = [json.loads(line)["instruction"] for line in file.read_text().splitlines()]
    assert said == ["monday", "tuesday"]


@pytest.mark.long
def test_what_cannot_be_taken_over_is_said_in_one_line(host: HostProject) -> None:
    assert "warehouse/tickets" in failure_of(host.run(SNAPSHOT))
    assert "it was never materialized" in failure_of(host.run(SNAPSHOT))
    for value, said in (
        ([], "the asset has no rows"),
        ("a text", "what the asset returns has no rows: str"),
        ([["a", "b"]], "row 1 of the asset is no mapping: list"),
    ):
        host.returns(value)
        assert host.run(KEY).success
        assert said in failure_of(host.run(SNAPSHOT))


def test_an_asset_that_stores_nothing_is_said(host: HostProject) -> None:
    @dg.asset(key=KEY)
    def tickets() -> dg.MaterializeResult[Any]:
        return dg.MaterializeResult()

    definitions = dg.Definitions.merge(
        dg.Definitions(assets=[tickets]), build_defs(host.project, key_prefix="models")
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=host.instance, asset_selection=[KEY]).success
    failed = job.execute_in_process(instance=host.instance, asset_selection=[SNAPSHOT], raise_on_error=False)
    assert "its IO manager cannot load it" in failure_of(failed)


def test_an_io_manager_that_cannot_reach_its_storage_is_asked_again(host: HostProject) -> None:
    tries = iter(["away", "there"])

    class OwnStorage(dg.ConfigurableIOManager):
        def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
            host.returns(obj)

        def load_input(self, context: dg.InputContext) -> Any:
            if next(tries) == "away":
                raise ConnectionResetError("gone for a moment")
            return json.loads(host.returned.read_text())

    @dg.asset(key=KEY, io_manager_key="own")
    def tickets() -> Any:
        return rows(3)

    settings = {"sources": {"allow": [".", ADDRESS]}, "retries": {"wait_seconds": 0}}
    write_yaml(host.project / "ft_dagster.yaml", settings)
    definitions = dg.Definitions.merge(
        dg.Definitions(assets=[tickets], resources={"own": OwnStorage()}),
        build_defs(host.project, key_prefix="models"),
    )
    job = definitions.resolve_implicit_global_asset_job_def()
    for key in (KEY, SNAPSHOT):
        assert job.execute_in_process(instance=host.instance, asset_selection=[key]).success
    assert next(tries, None) is None
    assert present(read_snapshot(host.project, NAME)).rows == 3


def test_one_that_was_not_taken_is_asked_for_once_a_day(host: HostProject) -> None:
    host.run(KEY)
    graph, noon = _graph(host.project), datetime(2026, 11, 26, 12, tzinfo=UTC)
    days = [noon, noon + timedelta(minutes=1), noon + timedelta(days=1)]
    asked = [outdated_snapshots(host.instance, host.settings, graph, day) for day in days]
    first, again, later = (request.run_key for [request] in asked)
    assert first == again != later


def test_one_that_is_newly_named_is_said_to_need_a_reload(host: HostProject) -> None:
    host.allows(["."])
    loaded = host.definitions
    assert not loaded.resolve_asset_graph().has(SNAPSHOT)
    host.allows([".", ADDRESS])
    with pytest.raises(Exception, match="reload the code location"):
        host.prepares(READS)


def test_the_graph_shows_what_it_reads_and_the_sensor_runs(host: HostProject) -> None:
    repository = host.definitions.get_repository_def()
    graph = repository.asset_graph
    assert graph.get(SNAPSHOT).parent_keys == {KEY}
    assert SNAPSHOT in graph.get(dg.AssetKey(["models", "declaration"])).parent_keys
    assert SNAPSHOT not in graph.get(dg.AssetKey(["models", "task_dataset"])).parent_keys
    sensor = repository.get_sensor_def("models__upstream_updates")
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    host.run(KEY)
    given = {f"models__{name}": made for name, made in default_resources(str(host.project)).items()}
    with dg.build_sensor_context(host.instance, repository_def=repository, resources=given) as context:
        asked = sensor.evaluate_tick(context).run_requests
    assert [list(present(request.asset_selection)) for request in present(asked)] == [[SNAPSHOT]]
