"""An instance of a version whose schedule was switched in the UI: the sensor takes its switch over."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from ft_dagster.automation.former_schedule import FORMER, SENSOR
from ft_dagster.automation.processes.instance import open_instance
from ft_dagster.build import default_resources as resources
from ft_dagster.definitions import defs
from ft_dagster.settings import Settings, load_settings
from tests.present import present

pytestmark = pytest.mark.slow
LOCATION = ManagedGrpcPythonEnvCodeLocationOrigin(
    LoadableTargetOrigin(module_name="ft_dagster.definitions"), "ft_dagster"
)
REPOSITORY = RemoteRepositoryOrigin(LOCATION, "__repository__")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(tmp_path))
    (tmp_path / "tenants").mkdir()
    return load_settings(tmp_path)


def switched(instance: dg.DagsterInstance, status: InstigatorStatus) -> None:
    """As the UI's switch leaves the schedule."""
    origin, data = RemoteInstigatorOrigin(REPOSITORY, FORMER), ScheduleInstigatorData("* * * * *", 1000.0)
    instance.add_instigator_state(InstigatorState(origin, InstigatorType.SCHEDULE, status, data))


def states(instance: dg.DagsterInstance) -> dict[str, InstigatorStatus]:
    return {state.instigator_name: state.status for state in instance.all_instigator_state()}


def test_the_sensor_is_known_by_the_name_that_takes_over() -> None:
    names = [sensor.name for sensor in defs.get_repository_def().sensor_defs]
    assert SENSOR in names
    assert FORMER not in names


@pytest.mark.parametrize("status", [InstigatorStatus.RUNNING, InstigatorStatus.STOPPED])
def test_the_switch_of_the_schedule_is_carried_over_when_the_instance_is_opened(
    settings: Settings, status: InstigatorStatus
) -> None:
    with open_instance(settings) as instance:
        switched(instance, status)
    with open_instance(settings) as instance:
        assert states(instance) == ({SENSOR: status} if status is InstigatorStatus.STOPPED else {})


def test_a_daemon_that_nobody_opened_the_instance_for_stops_at_the_first_tick(settings: Settings) -> None:
    origin, data = (
        RemoteInstigatorOrigin(REPOSITORY, SENSOR),
        SensorInstigatorData(sensor_type=SensorType.STANDARD),
    )
    running = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, data)
    with open_instance(settings) as instance:
        instance.add_instigator_state(running)  # as the daemon does before it calls the sensor
        switched(instance, InstigatorStatus.STOPPED)
        named = resources(str(settings.project))
        with dg.build_sensor_context(instance=instance, resources=named) as context:
            skipped = defs.get_repository_def().get_sensor_def(SENSOR).evaluate_tick(context)
        assert "stopped" in present(skipped.skip_message)
        assert states(instance) == {SENSOR: InstigatorStatus.STOPPED}
