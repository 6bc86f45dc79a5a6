"""The daemon is killed, with all its processes, at each point of a tick; two daemons come to one at once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple

import dagster as dg
import pytest

from ft_dagster.automation.processes.instance import reused_everything
from ft_dagster.automation.tags import DUE
from ft_dagster.dagster_private import PARTITION
from ft_dagster.lineage.entry import ROLLBACK
from ft_dagster.lineage.release import ReleaseRequest, history, promote, rollback
from ft_dagster.spec import VariantKey
from tests.e2e.fleet import TinyFleet
from tests.e2e.instance import wait_until
from tests.fleet.receiver import Receiver, receiving
from tests.present import present

pytestmark = [pytest.mark.slow, pytest.mark.long]
AT_POINTS = Path(__file__).parent / "at_points"
SUCCESS = dg.DagsterRunStatus.SUCCESS
KEY = "acme.places"
TICK, SENSOR = "ft_dagster.automation.due", "dagster._daemon.sensor"
CHECKED = f"{SENSOR}:check_for_debug_crash"  # which Dagster calls at points of its own


class Point(NamedTuple):
    """Where a process stops: see at_points/sitecustomize.py. `trains`: whether the retrain that is due then
    makes another model, or reuses all.
    """

    at: str
    when: str = "before"
    argument: str = ""
    trains: bool = False


DECIDING = {
    "nothing is read": Point(f"{TICK}:_notice"),
    "the declarations are noted": Point(f"{TICK}:_read"),
    "runs are charged": Point(f"{TICK}:_charge", "after"),
    "variants are learnt of": Point(f"{TICK}:_learn", "after"),
    "it is decided, and nothing noted": Point(f"{TICK}:keep_pace"),
    "all is noted, and no run asked for": Point(f"{TICK}:tick", "after", trains=True),
    "the cursor is kept, and no run made": Point(CHECKED, argument="RUN_IDS_RESERVED"),
    "the run is made, and not in the queue": Point(CHECKED, argument="RUN_CREATED", trains=True),
    "the run is in the queue": Point(CHECKED, argument="RUN_LAUNCHED"),
    "all runs are in the queue": Point(CHECKED, argument="RUN_IDS_ADDED_TO_EVALUATIONS"),
}
TELLING = {
    "an event is found, and not put in": Point("ft_dagster.fleet.events.outbox:_content"),
    "an event is put in, and not told": Point("ft_dagster.fleet.events.delivery:send"),
    "an event is told, and that not noted": Point("ft_dagster.fleet.events.outbox:Outbox.told"),
    "all is told, and the cursor not kept": Point("ft_dagster.fleet.events.outbox:Outbox.told", "after"),
}


class Night(NamedTuple):
    fleet: TinyFleet
    receiver: Receiver
    folder: Path

    def daemon(self, point: Point | None = None, how: str = "kill") -> AbstractContextManager[Popen[bytes]]:
        if point is None:
            return self.fleet.daemon()
        own = os.pathsep.join(filter(None, (str(AT_POINTS), os.environ.get("PYTHONPATH"))))
        stop = {
            "AT": point.at,
            "WHEN": point.when,
            "HOW": how,
            "FOLDER": str(self.folder),
        }
        stop |= {"ARGUMENT": point.argument} if point.argument else {}
        return self.fleet.daemon(PYTHONPATH=own, **{f"FT_STOP_{name}": value for name, value in stop.items()})

    def order(self, number: int, *, trains: bool) -> None:
        """Make the variant due once more, and let whoever comes to a point stop there."""
        if trains:
            self.fleet.train_otherwise(KEY, seed=100 + number)
        (self.folder / "armed").touch()
        self.fleet.order(f"number-{number}")

    def release_another(self) -> None:
        """Put the version before the newest into production, or the newest again: no retrain, an event."""
        store, prefix = self.fleet.settings.open_store(), VariantKey.parse(KEY).prefix
        newest, request = history(store, prefix)[-1], ReleaseRequest("a test")
        (self.folder / "armed").touch()
        if newest.action == ROLLBACK:
            promote(store, prefix, present(newest.from_version), request, force=True)
        else:
            rollback(store, prefix, request)
        with self.fleet.instance() as instance:
            instance.report_runless_asset_event(dg.AssetMaterialization("release", partition=KEY))

    def of(self, number: int) -> list[dg.DagsterRun]:
        """The runs of an order."""
        return [run for run in self.fleet.runs() if run.tags[DUE].startswith(f"order-number-{number}-")]

    def is_done(self, number: int) -> bool:
        runs = self.of(number)
        return bool(runs) and all(run.status == SUCCESS for run in runs)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Night]:
    """A variant that was trained and released once."""
    folder = tmp_path_factory.mktemp("night")
    (folder / "points").mkdir()
    with receiving() as receiver:
        fleet = TinyFleet(folder / "project", tiny_model_folder, receiver.url)
        fleet.declare(KEY, tiny_model_folder)
        fleet.command("run", KEY)
        yield Night(fleet, receiver, folder / "points")


def test_a_daemon_that_is_killed_at_each_point_of_a_tick_asks_once_and_tells_all(night: Night) -> None:
    """One dies at each point, and the next, which is to die at the next one, ends what it left."""
    told = trained = 1
    for number, (name, point) in enumerate(DECIDING.items()):
        with night.daemon(point) as process:
            settle(night, number, told)
            night.order(number, trains=point.trains)
            assert process.wait(300) == -signal.SIGKILL, name
        (night.folder / "armed").unlink()
        trained += point.trains
        told += point.trains
    for name, point in TELLING.items():
        with night.daemon(point) as process:
            settle(night, len(DECIDING), told)
            night.release_another()
            assert process.wait(300) == -signal.SIGKILL, name
        (night.folder / "armed").unlink()
        told += 1
    with night.daemon():
        settle(night, len(DECIDING), told)
        night.fleet.wait_for_ticks()
    assert [len(night.of(number)) for number in range(len(DECIDING))] == [1] * len(DECIDING)
    assert night.fleet.trainings() == {KEY: trained}
    with night.fleet.instance() as instance:
        reused = [reused_everything(instance, run.run_id) for run in night.fleet.runs()]
    assert reused == [not point.trains for point in DECIDING.values()]
    assert len(night.receiver.got) > told  # what was told and not noted was told again, by the same id


def settle(night: Night, orders: int, told: int) -> None:
    """Wait until the newest of so many orders is carried out, and so many events are told."""
    if orders:
        wait_until(partial(night.is_done, orders - 1), 300)
    night.fleet.wait_until_idle()
    wait_until(lambda: len(set(night.receiver.ids)) == told, 180)


def test_what_one_of_two_daemons_has_made_the_other_reuses_and_says_so(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Both have looked for runs by the key of a retrain at the same moment: there is none. Each may make one,
    launch that of the other once more, or take it for dead and run it again.
    """
    fleet = TinyFleet(tmp_path / "project", tiny_model_folder)
    fleet.declare(KEY, tiny_model_folder)
    fleet.command("run", KEY)
    with receiving() as receiver:
        night, point = Night(fleet, receiver, tmp_path), Point(f"{SENSOR}:fetch_existing_runs", "after")
        with night.daemon(point, "meet"), night.daemon(point, "meet"):
            night.order(0, trains=True)
            wait_until(lambda: len([*tmp_path.glob("stopped-*")]) == 2, 120)
            wait_until(lambda: night.is_done(0), 400)
            fleet.wait_until_idle()
            fleet.wait_for_ticks(4)
    assert fleet.trainings() == {KEY: 2}
    said = Counter(reused for run in night.of(0) for reused in reports_of(fleet, run))
    assert said["fine_tuned_model", False] == 1
    assert [
        entry.version for entry in history(fleet.settings.open_store(), VariantKey.parse(KEY).prefix)
    ] == [1, 2]
    assert {run.tags[PARTITION] for run in night.of(0)} == {KEY}


def reports_of(fleet: TinyFleet, run: dg.DagsterRun) -> Iterator[tuple[str, bool]]:
    """What a run reported: each asset, and whether it had been made before."""
    with fleet.instance() as instance:
        for record in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
            made = present(record.dagster_event).step_materialization_data.materialization
            reused = made.metadata.get("reused")
            yield made.asset_key.path[-1], bool(reused is not None and reused.value)
