"""A drill: six variants under deploy/one-machine, new rows for three of them, ten kills, one cancel.

    python -m tests.e2e.drill SEED...

Each variant that is due is retrained once and no other, whatever is killed, and to the model that a project
in which nothing is killed trains from the same rows.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from ft_dagster.automation.tags import VARIANT
from tests.e2e.deployment import Deployment, Unit
from tests.e2e.fleet import ENDED, TinyFleet
from tests.e2e.instance import ask, wait_until
from tests.e2e.project import rows, write_lines
from tests.postgres import PostgresServer, serve_postgres
from tests.tiny_model import make_tiny_model

KEYS = ("acme.a", "acme.b", "globex.a", "globex.b", "initech.a", "initech.b")
SOON = {"on_new_data": True, "poll": 1, "quiet_minutes": 0}
KILLS, DUE = 10, 3
FOUND_SECONDS, STATUS_SECONDS, PATIENCE = 120.0, 60.0, 40 * 60.0
CANCEL = """
mutation($id: String!) { terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) { __typename } }
"""
Say = Callable[[str], None]


def drill(folder: Path, base: Path, seed: int, postgres: PostgresServer | None, say: Say = print) -> None:
    """Carry out one; raises AssertionError, TimeoutError."""
    began, chance = time.monotonic(), random.Random(seed)
    fleet = TinyFleet(folder / "project", base)
    for key in KEYS:
        fleet.declare(key, base, SOON)
    fleet.command("run", "--all")
    undisturbed = fleet.copy(folder / "undisturbed")
    due = sorted(chance.sample(KEYS, DUE))
    for each in (fleet, undisturbed):
        for key in due:
            write_lines(each.rows(key), rows(90 + KEYS.index(key)))
    place = Deployment.of(fleet, postgres)
    say(f"seed {seed}: {', '.join(due)} are due, {time.monotonic() - began:.0f} s after the beginning")
    with place.running():
        started = time.monotonic()
        wait_until(lambda: {*fleet.asked()} >= {*due}, FOUND_SECONDS)
        say(f"found after {time.monotonic() - started:.0f} s")
        cancelled = disturb(place, chance, say)
        wait_until(fleet.are_done, PATIENCE)
        say(f"the runs of the fleet ended {time.monotonic() - started:.0f} s after its start")
        if cancelled is not None:
            fleet.command("run", cancelled)
        wait_until(lambda: released(fleet, due), PATIENCE)
        ended = time.monotonic()
        wait_until(lambda: states(fleet) == dict.fromkeys(KEYS, "fresh"), STATUS_SECONDS)
        say(f"status is true {time.monotonic() - ended:.0f} s later")
        fleet.wait_for_ticks()
        with fleet.instance() as instance:
            assert all(run.status in ENDED for run in instance.get_runs())
    assert fleet.trainings() == {key: 1 + (key in due) for key in KEYS}
    undisturbed.command("run", "--all")
    assert digests(fleet) == digests(undisturbed)
    starts, runs, took = place.daemon.starts, len(fleet.runs()), time.monotonic() - began
    say(f"seed {seed}: {starts} daemons, {runs} runs of the fleet, {took:.0f} s")


def disturb(place: Deployment[TinyFleet], chance: random.Random, say: Say) -> str | None:
    """Kill ten times, and cancel one run between them; returns its variant."""
    cancel_at, cancelled = chance.randrange(1, 4), None
    for number in range(KILLS):
        time.sleep(chance.uniform(3, 20))
        if number == cancel_at:
            cancelled = cancel_one(place, chance)
            say(f"cancelled: {cancelled}")
        say(f"killed: {kill_one(place, chance)}")
    return cancelled


def kill_one(place: Deployment[TinyFleet], chance: random.Random) -> str:
    """Kill all, a unit, Postgres, or any one process; returns what."""
    how = chance.choice(("all", "daemon", "webserver", "postgres", *(["a process"] * 4)))
    if how == "all" or (how == "postgres" and place.postgres is None):
        place.power_cut()
        return "all"
    if how == "postgres" and place.postgres is not None:
        place.postgres.crash()
        place.postgres.start()
        return how
    if how in ("daemon", "webserver"):
        unit: Unit = getattr(place, how)
        unit.kill()
        return how
    living = place.daemon.processes[1:]
    if not living:
        return "nothing: no process lived beside the daemon"
    process = chance.choice(living)
    with suppress(psutil.NoSuchProcess):
        name = " ".join(process.cmdline())[-60:]
        process.kill()
        return f"process {name}"
    return "a process that had ended"


def cancel_one(place: Deployment[TinyFleet], chance: random.Random) -> str | None:
    """Cancel a run that has started, as a person does in the UI; returns its variant; None: nothing ran."""
    with suppress(TimeoutError):
        started = wait_until(lambda: running_now(place.fleet), 120)
        run = chance.choice(started)
        place.wait_for_ui()
        wait_until(lambda: ask(place.port, CANCEL, id=run.run_id)["terminateRun"], 60)
        return run.tags[VARIANT]
    return None


def running_now(fleet: TinyFleet) -> list[dg.DagsterRun]:
    with fleet.instance() as instance:
        return [run for run in instance.get_runs() if run.status == dg.DagsterRunStatus.STARTED]


def released(fleet: TinyFleet, due: list[str]) -> bool:
    """Say whether each due variant has its second version; what a run left undone the fleet does later."""
    rows = {row["variant"]: row["version"] for row in fleet.command("status")["variants"]}
    return all(rows[key] == 2 for key in due)


def states(fleet: TinyFleet) -> dict[str, str]:
    return {row["variant"]: row["state"] for row in fleet.command("status")["variants"]}


def digests(fleet: TinyFleet) -> dict[str, Any]:
    return {row["variant"]: row["digest"] for row in fleet.command("status")["variants"]}


@contextmanager
def on_postgres(seed: int) -> Iterator[PostgresServer | None]:
    """Yield a server for every second seed."""
    with serve_postgres() if seed % 2 else nullcontext() as server:
        yield server


def main() -> None:
    for seed in map(int, sys.argv[1:]):
        with (
            tempfile.TemporaryDirectory(prefix="ft_dagster-drill-") as scratch,
            on_postgres(seed) as postgres,
        ):
            folder = Path(scratch)
            drill(folder, make_tiny_model(folder / "tiny"), seed, postgres)


if __name__ == "__main__":
    main()
