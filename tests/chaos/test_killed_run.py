"""A run under a real webserver and daemon: its step, the daemon or all is killed, or a person cancels it.

No process and no lease is left, and the model is the undisturbed one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ft_dagster.automation.processes.instance import workspace_file, write_home
from ft_dagster.launch.leases import of_host
from ft_dagster.settings import load_settings
from ft_dagster.store import read_head
from ft_dagster.training.checkpoints import complete
from tests.e2e.instance import BIN, ask, free_port, launch, running, wait_until
from tests.e2e.project import UP_TO_PLAN, command_environment, edit, write_project

pytestmark = [pytest.mark.slow, pytest.mark.long]
KEY, PREFIX = "acme.places", "tenants/acme/places"
CANCEL = """
mutation($id: String!) { terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) { __typename } }
"""
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
CANCEL_SECONDS = 120


class House:
    """A project with webserver and daemon, whose variant is planned and ready to be trained."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, load_settings(folder)
        self.environment = command_environment(folder) | write_home(self.settings)
        self.port = free_port()
        self.programs: dict[str, psutil.Process] = {}
        self.digest = ""

    @property
    def store(self) -> Any:
        return self.settings.open_store()

    @contextmanager
    def program(self, name: str, *command: str) -> Iterator[None]:
        target: list[str | Path] = [BIN / command[0], *command[1:], "-w", str(workspace_file(self.settings))]
        with running(target, self.environment) as process:
            self.programs[name] = psutil.Process(process.pid)
            yield

    def web(self) -> Any:
        return self.program("webserver", "dagster-webserver", "-p", str(self.port))

    def daemon(self) -> Any:
        return self.program("daemon", "dagster-daemon", "run")

    def launch(self, *assets: str) -> str:
        return launch(self.port, KEY, *assets)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with dg.DagsterInstance.from_config(self.environment["DAGSTER_HOME"]) as instance:
            yield instance

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        with self.instance() as instance:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            return run.status

    def end_of(self, run_id: str, patience: float = 240) -> dg.DagsterRunStatus:
        return wait_until(lambda: found if (found := self.status(run_id)) in ENDED else None, patience)

    def run_again(self, run_id: str) -> str:
        """The run that Dagster made in place of a killed one, once it has."""

        def made() -> str | None:
            with self.instance() as instance:
                runs = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run_id}))
            return runs[0].run_id if runs else None

        return wait_until(made, 240)

    def output(self) -> Path:
        (folder,) = (self.folder / ".ft_dagster/work/runs" / KEY).glob("*/output")
        return folder

    def processes(self) -> list[psutil.Process]:
        """The programs of this project's stages and their supervisors."""
        found, runs = [], str(self.folder / ".ft_dagster/work/runs")
        for process in psutil.process_iter():
            try:
                if any(runs in word for word in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def trainer(self) -> psutil.Process:
        """The process that trains, once it has a checkpoint to go on from."""
        wait_until(lambda: self.trains() and complete(self.output() / "checkpoints"))
        return self.trains()[0]

    def trains(self) -> list[psutil.Process]:
        return [p for p in self.processes() if "ft_dagster.launch.supervisor" not in p.cmdline()]

    def step(self) -> psutil.Process:
        """The process of the step, once there is a checkpoint. The trainer is no child of it, but of a
        supervisor that the warm server forked.
        """
        self.trainer()
        started = [p for program in self.programs.values() for p in program.children(recursive=True)]
        spawned = [p for p in started if "spawn_main" in " ".join(p.cmdline())]
        parents = {p.ppid() for p in spawned}
        (step,) = [p for p in spawned if p.pid not in parents]
        return step

    def forget_model(self) -> None:
        shutil.rmtree(self.folder / ".ft_dagster/work/runs", ignore_errors=True)
        for file in (self.folder / ".ft_dagster/store" / PREFIX / "fine_tuned_model").glob("*/manifest.json"):
            file.unlink()

    def model(self) -> Any:
        return read_head(self.store, PREFIX, "fine_tuned_model")

    def assert_nothing_is_left(self) -> None:
        assert self.processes() == []
        leases = of_host(self.settings.host)
        wait_until(lambda: {device.state for device in leases.table().devices} == {"free"}, 10)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[House]:
    folder = write_project(tmp_path_factory.mktemp("killed-run"), tiny_model_folder)
    edit(folder / "ft_dagster.yaml", lambda c: c.update(retries={"attempts": 1, "wait_seconds": 0.1}))
    more = {"num_train_epochs": 40, "per_device_train_batch_size": 4, "evaluations": 10}
    edit(folder / "tenants/acme/places.yaml", lambda c: c["training"].update(more))
    house = House(folder)
    with house.instance(), ExitStack() as stack:
        stack.enter_context(house.web())
        with house.daemon():
            wait_until(lambda: ask(house.port, "{ version }"))
            assert house.end_of(house.launch(*UP_TO_PLAN, "fine_tuned_model")) == dg.DagsterRunStatus.SUCCESS
            house.digest = house.model().digest
        yield house
        for process in house.processes():
            process.kill()


@pytest.fixture
def daemon(house: House) -> Iterator[None]:
    house.forget_model()
    with house.daemon():
        yield


def assert_undisturbed(house: House) -> None:
    """Nothing is left, and the model is the one that nobody disturbed."""
    assert house.model().digest == house.digest
    house.assert_nothing_is_left()


def assert_resumed(house: House) -> None:
    assert house.model().figures["resumed_from"]
    assert_undisturbed(house)


@pytest.mark.usefixtures("daemon")
def test_the_process_of_the_step_is_killed_and_the_daemon_runs_it_again(house: House) -> None:
    run_id = house.launch("fine_tuned_model")
    house.step().kill()
    assert house.end_of(run_id) == dg.DagsterRunStatus.FAILURE

    assert house.end_of(house.run_again(run_id)) == dg.DagsterRunStatus.SUCCESS
    assert_resumed(house)


@pytest.mark.usefixtures("daemon")
def test_the_command_line_follows_a_run_whose_process_was_killed(house: House) -> None:
    command = subprocess.Popen(
        [BIN / "ft-dagster", "run", KEY, "--json"],
        env=house.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    house.step().kill()
    said, complained = command.communicate(timeout=300)
    (row,) = json.loads(said)["variants"]
    assert (command.returncode, row["run_status"]) == (0, "SUCCESS"), complained
    assert_resumed(house)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("stubborn", [False, True], ids=["co-operative", "stubborn"])
def test_a_cancel_over_graphql_leaves_nothing_and_the_next_run_goes_on(house: House, stubborn: bool) -> None:
    run_id = house.launch("fine_tuned_model")
    trainer = house.trainer()
    if stubborn:
        trainer.suspend()  # neither SIGINT nor SIGTERM reaches it
    before = complete(house.output() / "checkpoints")[-1].step
    asked = time.monotonic()
    assert ask(house.port, CANCEL, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert house.end_of(run_id) == dg.DagsterRunStatus.CANCELED
    assert time.monotonic() - asked < CANCEL_SECONDS
    house.assert_nothing_is_left()
    assert complete(house.output() / "checkpoints")[-1].step >= before
    with house.instance() as instance:
        assert instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run_id})) == []
    assert house.end_of(house.launch("fine_tuned_model")) == dg.DagsterRunStatus.SUCCESS
    assert_resumed(house)


def test_the_daemon_is_killed_and_the_run_goes_on(house: House) -> None:
    house.forget_model()
    with house.daemon():
        run_id = house.launch("fine_tuned_model")
        house.trainer()
        kill_with_servers(house.programs["daemon"], servers=False)
        assert house.end_of(run_id) == dg.DagsterRunStatus.SUCCESS
    assert_undisturbed(house)


def succeeded(house: House, run_id: str) -> bool:
    return house.status(run_id) == dg.DagsterRunStatus.SUCCESS


def test_two_daemons_may_launch_a_run_twice_and_its_work_is_done_once(house: House) -> None:
    """Dagster ignores the second process, but calls the run failed until the first has ended."""
    with house.daemon():
        runs = [house.launch("fine_tuned_model") for _ in range(3)]  # of one variant: one after another
        for run_id in runs:
            wait_until(partial(succeeded, house, run_id))
    with house.instance() as instance:
        for run_id in runs:
            assert len(instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_START)) == 1
    assert_undisturbed(house)


def kill_with_servers(program: psutil.Process, *, servers: bool) -> None:
    """Kill a program of Dagster; with the code servers that it started, runs in them included, or alone."""
    below = program.children(recursive=True) if servers else []
    for process in [program, *below]:
        process.kill()


def test_everything_is_killed_as_by_a_power_cut_and_the_daemon_runs_it_again(house: House) -> None:
    house.forget_model()
    with house.daemon():
        run_id = house.launch("fine_tuned_model")
        house.trainer()
        everything = [*house.processes(), house.step()]
        kill_with_servers(house.programs["daemon"], servers=True)
        for process in everything:
            if process.is_running():
                process.kill()
    wait_until(lambda: house.processes() == [], 30)
    house.assert_nothing_is_left()
    assert house.status(run_id) == dg.DagsterRunStatus.STARTED
    with house.daemon():
        assert house.end_of(run_id) == dg.DagsterRunStatus.FAILURE
        assert house.end_of(house.run_again(run_id)) == dg.DagsterRunStatus.SUCCESS
    assert_resumed(house)


def test_the_webserver_is_killed_and_the_run_goes_on(house: House) -> None:
    """The last one: nobody launches after it."""
    house.forget_model()
    with house.daemon():
        run_id = house.launch("fine_tuned_model")
        house.trainer()
        kill_with_servers(house.programs["webserver"], servers=True)
        assert house.end_of(run_id) == dg.DagsterRunStatus.SUCCESS
    assert_undisturbed(house)
