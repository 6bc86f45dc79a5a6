"""Where Dagster does something else than one would think. docs/operations.md lists all, with their tests."""

import inspect
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.assets.failures import failures
from ft_dagster.assets.partitions import GRAPH, PARTITIONS
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.automation.processes.instance import write_home
from ft_dagster.build import default_resources as resources
from ft_dagster.definitions import defs
from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.launch.launcher import Job, carry_out
from ft_dagster.launch.local import GRACE
from ft_dagster.resources.launchers import Programs
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.training.progress import Console, Silent, open_channel
from ft_dagster.versions.summary import variant_row
from tests.automation.declarations import NOON, declare, start_from, tick
from tests.e2e.workshop import said_of
from tests.instances import new_instance
from tests.present import present
from tests.releases import adapter, release

pytestmark = pytest.mark.slow


def test_a_cancel_that_gives_up_before_torchrun_would_leave_its_workers_on_the_gpu() -> None:
    from torch.distributed.elastic.multiprocessing.api import PContext

    assert inspect.signature(PContext.close).parameters["timeout"].default < GRACE


def test_a_check_without_partition_would_let_one_tenants_pass_hide_anothers_fail() -> None:
    specs = [spec for asset in CHAIN if asset.partitions_def for spec in asset.check_specs]
    assert {spec.name for spec in specs} >= {"gate", "certificate", "fits", "learned"}
    assert [spec.name for spec in specs if spec.partitions_def != GRAPH.variants] == []


@pytest.mark.long
def test_staleness_is_silent_over_a_hundred_partitions_so_it_is_read_from_the_store(tmp_path: Path) -> None:
    names = [f"acme.child-{number}" for number in range(105)]
    declare(tmp_path, "acme.medical")
    for name in names:
        declare(tmp_path, name, base_model={"variant": "acme.medical"})
    (tmp_path / "ft_dagster.yaml").write_text("fleet: {spread_hours: 0}")
    store = load_settings(tmp_path).open_store()
    release(store, "acme.medical", adapter(1))
    for name in names:
        start_from(tmp_path, name, "acme.medical")
    release(store, "acme.medical", adapter(2))
    stale = {variant_row(store, VariantKey.parse(name)).stale for name in names}
    assert stale == {"acme.medical v2 was released since"}
    with new_instance() as instance:
        assert {request.partition_key for request in tick(tmp_path, instance, NOON)} == set(names)


def test_pools_count_a_training_as_one_slot_and_keep_it_after_a_cancel_so_none_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "tenants").mkdir()
    ours = [asset for asset in present(defs.assets) if isinstance(asset, dg.AssetsDefinition)]
    assert len(ours) == len(CHAIN)
    assert [op.name for asset in ours for op in asset.node_def.iterate_op_defs() if op.pool] == []
    with dg.DagsterInstance.from_config(write_home(load_settings(tmp_path))["DAGSTER_HOME"]) as instance:
        # for who adds a pool of their own
        assert 0 < instance.run_monitoring_settings["free_slots_after_run_end_seconds"] <= 120


@pytest.mark.parametrize("key", ["../x", "a|b", "x" * 300, "acme.support\n", "acme"])
def test_dagster_takes_any_text_as_a_partition_and_the_first_asset_refuses_it(
    tmp_path: Path, key: str
) -> None:
    (tmp_path / "tenants").mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [key])
        result = dg.materialize(
            CHAIN[:1], partition_key=key, instance=instance, resources=resources(str(tmp_path)),
            raise_on_error=False,
        )  # fmt: skip
    (failure,) = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_FAILURE]
    assert "not a variant key" in said_of(failure)
    assert [path.name for path in tmp_path.iterdir()] == ["tenants"]


def test_two_ranks_that_report_would_break_the_result_so_only_the_first_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAGSTER_PIPES_CONTEXT", "of the step")
    monkeypatch.setenv("RANK", "1")
    with open_channel() as channel:
        assert isinstance(channel, Silent)


def test_pipes_without_a_step_would_be_a_mock_that_swallows_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DAGSTER_PIPES_CONTEXT", raising=False)
    with open_channel() as channel:
        assert type(channel) is Console
        channel.say("step 1 of 3")
    assert capsys.readouterr().out == "step 1 of 3\n"


def test_a_program_that_ends_well_without_a_result_materializes_nothing(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    run_dir, nothing = tmp_path / "run", TextsRequest(tasks={}, output=tmp_path)
    run_dir.mkdir()
    # this module does nothing and exits with 0
    job = Job("stage_entries.entry", run_dir, nothing, None, {}, "acme")

    @dg.asset
    def trained(context: dg.AssetExecutionContext, launcher: dg.ResourceParam[Programs]) -> None:
        with failures():
            carry_out(launcher.open(), job, context.log.info)

    with dg.DagsterInstance.ephemeral() as instance:
        launcher = {"launcher": resources(str(tmp_path))["launcher"]}
        result = dg.materialize([trained], instance=instance, resources=launcher, raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "ended without a result" in said_of(failure)
    assert result.get_asset_materialization_events() == []
