"""What keys cost: `status`, the fleet's table made anew, and a run, each with keys as a ratio to without.

    .venv/bin/python -m benchmarks.signing PROJECT [--count 1000] [--rounds 5] [--runs 3]

PROJECT is finished: its variants are released (`make demo`). They are copied until there are `--count`, as
`fleet_trained.py` does; an auditor signs all of it (once, timed), and `trust.yaml` then refuses what nobody
signed. A run is that of the first variant in a copy of the project with an empty store, signed by a builder
from the first file on. Processor seconds of a process and its children; with and without by turns, in an
order that turns each round; the ratio of the medians, and of the best. What a process or this host remembers
of an earlier round is there for both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import dagster as dg

from benchmarks.fleet import STATUS, child, cpu
from benchmarks.fleet_trained import copies, processor
from ft_dagster.provenance.signing import TRUST_FILE, VARIABLE

TYPED = "import sys; sys.argv[1:] = {words!r}; from ft_dagster.cli import main; main()"
REBUILD = (
    "import dagster as dg; from ft_dagster.automation.due import rebuild_fleet; "
    "from ft_dagster.settings import load_settings; rebuild_fleet(dg.DagsterInstance.get(), load_settings())"
)
MADE = ("store", "work", "cache", "host")  # in .ft_dagster, by runs


def typed(project: Path, *words: str) -> None:
    child(project, "-c", TYPED.format(words=list(words)))


@contextmanager
def signing_by(project: Path, name: str) -> Iterator[None]:
    """Have child processes sign by a key of the project."""
    os.environ[VARIABLE] = str(project / ".ft_dagster/keys/signing" / f"{name}.pem")
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def sign_all(project: Path, role: str) -> float:
    """Make a key, sign what there is if it is an auditor's, refuse what nobody signed; the seconds of it."""
    typed(project, "trust", "new-key", role, "--role", role)
    seconds = 0.0
    if role == "auditor":
        with signing_by(project, role):
            seconds = cpu(lambda: typed(project, "trust", "sign", "--yes"))
    root = project / TRUST_FILE
    root.write_text(root.read_text("utf-8").replace("unsigned: accepted", "unsigned: refused"), "utf-8")
    typed(project, "trust", "unsigned")  # which fails where anything is
    return seconds


def report(name: str, seconds: Mapping[bool, list[float]]) -> None:
    """Print the medians without and with keys, the ratio of these, and of the best."""
    with_keys, without = seconds[True], seconds[False]
    middle = statistics.median(with_keys) / statistics.median(without)
    best = min(with_keys) / min(without)
    print(
        f"| {name} | {statistics.median(without):.2f} | {statistics.median(with_keys):.2f} | "
        f"{100 * (middle - 1):+.1f}% | {100 * (best - 1):+.1f}% |",
        flush=True,
    )


def by_turns(measure: Callable[[bool], float], rounds: int) -> dict[bool, list[float]]:
    """Return the seconds without keys (False) and with, of so many rounds."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds):
        for keys in (False, True) if number % 2 == 0 else (True, False):
            found[keys].append(measure(keys))
    return found


def fleet(project: Path, rounds: int) -> None:
    print(f"signing all of it: {sign_all(project, 'auditor'):.1f} s", flush=True)
    root, aside = project / TRUST_FILE, project / "no-trust.yaml"

    def measured(code: str, *, keys: bool) -> float:
        (here, there) = (aside, root) if keys else (root, aside)
        if here.exists():
            here.rename(there)
        return cpu(lambda: child(project, "-c", code))

    for keys in (False, True):  # what is read once
        measured(REBUILD, keys=keys)
    report("the table made anew", by_turns(lambda keys: measured(REBUILD, keys=keys), rounds))
    report("`status`", by_turns(lambda keys: measured(STATUS, keys=keys), rounds))


def runs(origin: Path, folder: Path, variant: str, rounds: int) -> None:
    made = shutil.ignore_patterns(*MADE)

    whole: dict[bool, list[float]] = {False: [], True: []}

    def measured(keys: bool) -> float:
        project = folder / "run"
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(origin, project, ignore=lambda at, names: made(at, names) if ".ft_" in at else set())
        if keys:
            sign_all(project, "builder")
        with signing_by(project, "builder") if keys else nullcontext():
            began = time.monotonic()
            seconds = cpu(lambda: typed(project, "run", variant))
        whole[keys].append(time.monotonic() - began)
        return seconds

    found = by_turns(measured, rounds)
    report(f"`run {variant}`: the process that signs", found)
    report(f"`run {variant}`: seconds of the clock", whole)
    more = statistics.median(found[True]) - statistics.median(found[False])
    print(f"more of the processor: {100 * more / statistics.median(whole[False]):+.1f}% of a run's seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="of variants")
    parser.add_argument("--rounds", type=int, default=5, help="of `status`")
    parser.add_argument("--runs", type=int, default=3, help="with keys, and as many without")
    given = parser.parse_args()
    origin = given.project.resolve()
    file = min(origin.glob("tenants/*/*.yaml"))
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}, {given.count} variants; CPU seconds", flush=True)
    print("| measured | without keys | with keys | medians | best |\n|---|---|---|---|---|", flush=True)
    with (
        tempfile.TemporaryDirectory() as name,
        dg.instance_for_test(temp_dir=tempfile.mkdtemp(dir=name), set_dagster_home=True),
    ):
        folder = Path(name)
        if given.count:
            list(copies(origin, folder / "fleet", given.count))
            fleet(folder / "fleet", given.rounds)
        if given.runs:
            runs(origin, folder, f"{file.parent.name}.{file.stem}", given.runs)


if __name__ == "__main__":
    sys.exit(main())
