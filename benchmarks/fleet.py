"""A fleet of many declarations: seconds of a tick, a look, `status`, and to load the code location.

    .venv/bin/python benchmarks/fleet.py [--sizes 100 1000 3000 10000] [--plot FILE]

Each variant has a file of rows of its own. Half a percent of the declarations are broken; a tenth of the
others starts from another variant. *Idle*: a tick in which nothing changed, 15 s after the one before, as the
sensor makes it; the mean of a minute. *Changed*: one after 50 declarations were edited and 50 variants had a
run that ended. *Look*: milliseconds for each place that the sensor `changed_sources` lists. Seconds are of
processor time, of this process and its children, without the start of Dagster's. *Rebuild*: the table from
nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.due import rebuild_fleet, tick
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.fleet.refresh.watching import look
from ft_dagster.settings import PROJECT_VARIABLE, Settings, load_settings
from ft_dagster.spec import Declarations

BROKEN, CHILDREN = 200, 10  # one of so many is broken, starts from another
CHANGED = 50  # of each kind
TENANTS = 50
TEXT = """\
description: variant {number}, which answers questions of one kind
owners: [owner@example.com]
base_model: {base}
data: {{sources: [data/{number}.jsonl]}}
method: {{name: lora, rank: 16}}
evaluation: {{general: [], limit: 50}}
retrain: {{cron: "{minute} 3 * * 1", max_age_days: 30, on_new_data: true}}
{more}
"""
STATUS = "import sys; sys.argv[1:] = ['status', '--json']; from ft_dagster.cli import main; main()"
SETTLED = 3  # seconds: a file written just now is read again each time
STEP, STEPS, LOOKS = timedelta(seconds=15), 4, 3
COLUMNS = ("rebuild", "idle tick", "tick, 100 changed", "load location", "status", "look, ms a place")


def write(project: Path, number: int, more: str = "") -> str:
    tenant, place = f"tenant-{number % TENANTS}", number // TENANTS
    child = place % CHILDREN == 1
    base = f"{{variant: {tenant}.v{place - 1}}}" if child else "models/base"
    wrong = "objectiv: x" if number % BROKEN == BROKEN - 1 else ""
    file = project / "tenants" / tenant / f"v{place}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(TEXT.format(number=number, base=base, minute=number % 60, more=more + wrong), "utf-8")
    rows = project / "data" / f"{number}.jsonl"
    rows.parent.mkdir(exist_ok=True)
    rows.write_text('{"text": "a row"}\n', "utf-8")
    return f"{tenant}.v{place}"


def cpu(work: Callable[[], object]) -> float:
    """Seconds of processor time: other programs may use the host meanwhile."""
    began = sum(os.times()[:4])
    work()
    return sum(os.times()[:4]) - began


def child(project: Path, *words: str) -> None:
    command = [sys.executable, *words]
    environment = {**os.environ, PROJECT_VARIABLE: str(project)}
    subprocess.run(command, cwd=project, check=True, stdout=subprocess.DEVNULL, env=environment)


def ended_run(instance: dg.DagsterInstance, key: str) -> None:
    """A run of the chain that succeeded."""

    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def variant_chain() -> None:
        nothing()

    run = instance.create_run_for_job(variant_chain, tags={"dagster/partition": key, "ft/variant": key})
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "variant_chain", message="done")
    instance.report_dagster_event(event, run.run_id)


def measure(project: Path, count: int, instance: dg.DagsterInstance) -> list[float]:
    keys = [write(project, number) for number in range(count)]
    time.sleep(SETTLED)
    settings, now, cursor = load_settings(project), datetime.now(UTC), ""

    def ticks(at: datetime) -> Any:
        nonlocal cursor
        ticked = tick(instance, settings, Declarations(project), cursor or None, at)
        cursor = str(ticked.seen)
        return ticked

    figures = [cpu(lambda: rebuild_fleet(instance, settings))]
    ticks(now)
    working = count - count // BROKEN
    assert len(instance.get_dynamic_partitions(PARTITIONS)) == working
    figures.append(cpu(lambda: [ticks(now + step * STEP) for step in range(1, STEPS + 1)]) / STEPS)
    for number in range(CHANGED):
        write(project, number, "resources: {priority: 1}\n")
        ended_run(instance, keys[count - 1 - 2 * number])
    figures.append(cpu(lambda: ticks(now + timedelta(minutes=1))))
    figures.append(cpu(lambda: child(project, "-c", "import ft_dagster.definitions")))
    figures.append(cpu(lambda: child(project, "-c", STATUS)))
    figures.append(looking(instance, settings, now))
    return figures


def looking(instance: dg.DagsterInstance, settings: Settings, now: datetime) -> float:
    """Milliseconds a place, where each is as it was."""
    table, listed, seconds = open_fleet(instance, settings), 0, 0.0
    for minute in range(LOOKS):
        began, at = sum(os.times()[:4]), now + timedelta(days=1, minutes=minute)
        listed += look(table, settings, at).listed
        seconds += sum(os.times()[:4]) - began
    return 1000 * seconds / listed


def plot(sizes: list[int], rows: list[list[float]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for column, name in enumerate(COLUMNS[:-1]):  # the last is of another unit
        axes.plot(sizes, [row[column] for row in rows], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="declarations", ylabel="CPU seconds")
    axes.legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 3000, 10_000])
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    print("declarations  " + "  ".join(f"{name:>18}" for name in COLUMNS), flush=True)
    rows = []
    for count in given.sizes:
        with tempfile.TemporaryDirectory() as folder, dg.instance_for_test() as instance:
            project = Path(folder)
            (project / "tenants").mkdir()
            rows.append(measure(project, count, instance))
        print(f"{count:12d}  " + "  ".join(f"{value:18.2f}" for value in rows[-1]), flush=True)
    if given.plot is not None:
        plot(given.sizes, rows, given.plot)


if __name__ == "__main__":
    main()
