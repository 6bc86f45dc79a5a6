"""What does it cost to run a project again in which nothing changed, beyond an empty run of Dagster?

    .venv/bin/python benchmarks/rerun.py [--project examples/demo]

The project's variants are run once, in a store, a work folder and a Dagster home of this benchmark's own.
Then, one after the other: empty runs, by the same command and daemon with a code location whose assets do
nothing; `ft-dagster run --all`, where nothing changed and no run is started; the same with `--rerun`, a run
for each variant in which every stage is reused. Seconds until the command ends, and CPU seconds of all
its processes.

Three variants on a model of two layers, two cores of an AMD EPYC, much other load (9 to 11), twice each:

    | | wall, s | CPU, s | beyond an empty run, a variant: wall, s | CPU, s |
    |---|---|---|---|---|
    | an empty run | 24.1 | 12.2 | 0.0 | 0.0 |
    | 3 empty runs | 38.4 | 19.1 | 4.8 | 2.3 |
    | 3 unchanged | 8.6 | 3.4 | -5.2 | -3.0 |
    | 3 unchanged, --rerun | 65.6 | 35.3 | 13.8 | 7.7 |

`ft-dagster run --all` of the tree before started runs: 66.1 s and 35.2 CPU s right after (an empty run then
24.3 and 11.8, unchanged 8.1 and 3.4). One variant of SmolLM2-135M, merged, unchanged: 3.1 CPU s, 1.0 of them
the look.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import yaml

from ft_dagster.launch.processes import become_subreaper
from ft_dagster.spec import Declarations

HERE = Path(__file__).resolve().parent
FT_DAGSTER = Path(sys.executable).with_name("ft-dagster")
EMPTY = """
import dagster as dg

VARIANTS = dg.DynamicPartitionsDefinition(name="ft_dagster_variant")


def empty(number: int) -> dg.AssetsDefinition:
    @dg.asset(name=f"empty_{number}", partitions_def=VARIANTS)
    def asset() -> None:
        return None

    return asset


assets = [empty(number) for number in range(11)]
job = dg.define_asset_job("variant_chain", partitions_def=VARIANTS, executor_def=dg.in_process_executor)
defs = dg.Definitions(assets=assets, jobs=[job], executor=dg.in_process_executor)
"""


def environment(project: Path, folder: Path, home: str) -> dict[str, str]:
    """A store and a work folder of the benchmark's own, and one of its two homes."""
    return {
        **os.environ,
        "FT_DAGSTER_PROJECT": str(project),
        "FT_DAGSTER_STORE": str(folder / "store"),
        "FT_DAGSTER_WORK": str(folder / "work"),
        "DAGSTER_HOME": str(folder / home),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
    }


def write_empty_location(folder: Path) -> None:
    """A home whose code location does nothing, under the names that the command asks for."""
    (folder / "empty_home").mkdir(parents=True, exist_ok=True)
    (folder / "empty_location.py").write_text(EMPTY, "utf-8")
    module = {"module_name": "empty_location", "location_name": "ft_dagster"}
    workspace = {"load_from": [{"python_module": module}]}
    (folder / "empty_home" / "workspace.yaml").write_text(yaml.safe_dump(workspace), "utf-8")


def run(given: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [FT_DAGSTER, "run", *arguments], env=given, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)


def timed(given: dict[str, str], *arguments: str) -> tuple[float, float]:
    """(wall, CPU) seconds of `ft-dagster run`; CPU seconds of all its processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run(given, *arguments)
    wall = time.monotonic() - began
    with suppress(ChildProcessError):  # what the command left behind, which counts too
        while os.waitpid(-1, 0):
            pass
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", type=Path, default=HERE.parent / "examples" / "demo")
    parser.add_argument("--folder", type=Path, default=HERE / ".work" / "rerun", help="store and homes")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call made")
    given = parser.parse_args()
    project, folder = given.project.resolve(), given.folder.resolve()
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    write_empty_location(folder)
    real, empty = environment(project, folder, "home"), environment(project, folder, "empty_home")
    variants = [str(key) for key in Declarations(project)]
    for where, asked_first in ((real, ("--all",)), (empty, (variants[0], "--rerun"))):
        run(where, *asked_first)
    become_subreaper()
    asked = {
        "an empty run": (empty, (variants[0], "--rerun")),
        f"{len(variants)} empty runs": (empty, ("--all", "--rerun")),
        f"{len(variants)} unchanged": (real, ("--all",)),
        f"{len(variants)} unchanged, --rerun": (real, ("--all", "--rerun")),
    }
    taken = {
        name: [timed(where, *arguments) for _ in range(given.times)]
        for name, (where, arguments) in asked.items()
    }
    medians = {name: [median(part) for part in zip(*runs, strict=True)] for name, runs in taken.items()}
    empty_wall, empty_cpu = medians["an empty run"]
    print("| | wall, s | CPU, s | beyond an empty run, a variant: wall, s | CPU, s |\n|---|---|---|---|---|")
    for name, (wall, cpu) in medians.items():
        beyond = [f"{(s - base) / len(variants):.1f}" for s, base in ((wall, empty_wall), (cpu, empty_cpu))]
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {' | '.join(beyond)} |")


if __name__ == "__main__":
    main()
