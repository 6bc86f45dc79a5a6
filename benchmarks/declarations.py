"""A project of many declarations: seconds to load all, for a tick, for `status`.

    .venv/bin/python benchmarks/declarations.py [--sizes 100 1000 2000]

The tick is one of the sensor of due variants, once the fleet's table is made. Ten tenants; every tenth
variant starts from a base model, each other from the variant before it. The first load reads every file;
"again" is the same with no file changed since.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from ft_dagster.automation.due import rebuild_fleet
from ft_dagster.build import default_resources as resources
from ft_dagster.definitions import defs
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations

TENANTS, CHAIN = 10, 10
TEXT = """\
description: variant {number}, which answers questions of one kind
owners: [owner@example.com]
base_model: {base}
data:
  sources: [{{path: data/rows.jsonl, licence: CC-BY-4.0}}]
  splits: {{validation: 0.1, test: 0.1}}
method: {{name: lora, rank: 16}}
training: {{num_train_epochs: 2, learning_rate: 2e-4}}
evaluation: {{general: [], limit: 50}}
retrain: {{cron: "0 18 * * *"}}
"""
SETTLED = 3  # seconds: a file written just now is read again each time


def write_project(folder: Path, count: int) -> list[str]:
    keys = []
    for number in range(count):
        tenant, place = f"tenant-{number % TENANTS}", number // TENANTS
        base = "models/base" if place % CHAIN == 0 else f"{{variant: {tenant}.v{place - 1}}}"
        file = folder / "tenants" / tenant / f"v{place}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TEXT.format(number=number, base=base), "utf-8")
        keys.append(f"{tenant}.v{place}")
    (folder / "tenants" / "defaults.yaml").write_text("resources: {cpu_slots: 1}\n", "utf-8")
    return keys


def load_all(project: Path) -> None:
    declarations = Declarations(project)
    assert [declarations.declared(key) for key in declarations]


def tick(project: Path, instance: dg.DagsterInstance) -> None:
    with dg.build_sensor_context(instance=instance, resources=resources(str(project))) as sensor:
        ticked = defs.get_repository_def().get_sensor_def("due_retrains").evaluate_tick(sensor)
    assert ticked.run_requests == []


def status(project: Path) -> None:
    call = "from ft_dagster.cli import main; main()"
    command = [sys.executable, "-c", call, "--project", str(project), "status", "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def seconds(work: Callable[..., None], *arguments: object) -> str:
    """Of processor time, of this process and its children: other programs may use the host meanwhile."""
    began = sum(os.times()[:4])
    work(*arguments)
    return f"{sum(os.times()[:4]) - began:8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 2000])
    sizes = parser.parse_args().sizes
    print("declarations  load all     again      tick    status   (CPU seconds)")
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder, dg.instance_for_test() as instance:
            project = Path(folder)
            write_project(project, count)
            time.sleep(SETTLED)
            figures = [seconds(load_all, project), seconds(load_all, project)]
            rebuild_fleet(instance, load_settings(project))
            figures += [seconds(tick, project, instance), seconds(status, project)]
            print(f"{count:12d}  {'  '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
