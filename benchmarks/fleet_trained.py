"""A fleet of variants that each have a released version: CPU seconds of ticks, and of `status`.

    .venv/bin/python -m benchmarks.fleet_trained PROJECT [--count 10000]

PROJECT holds a finished demo (`make demo`). Its variants are copied until there are so many, each with its
own manifests, heads and release log; of the payloads it gets what is read without a run. The programs of
`fleet.py` measure variants that were never trained. *Learn all*: the policy changed, so that each variant is
compared anew; the number of ticks, the sum of their seconds, and the longest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import dagster as dg

from benchmarks.fleet import CHANGED, SETTLED, STATUS, STEP, STEPS, child, cpu, ended_run
from ft_dagster.automation.due import rebuild_fleet, tick
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.provenance.digest import stage_key
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations
from ft_dagster.stage_entries import ENTRIES

TENANTS = 50
SHARED = ("corpora", "data", "models", "packages", "tasks", ".ft_dagster/keys", ".ft_dagster/store/shared")
READ = (
    "payload/declaration.json",
    "payload/plan.json",
    "evidence/estimate.json",
    "evidence/certificate.json",
)  # of the payloads, without a run
KEPT = ("heads/", "releases/0", "digests/")  # beside manifests
POLICY = "gates: {undecided: measured, degeneration_margin: 0.5}\nevaluation: {questions: 40}\n"


def copies(origin: Path, project: Path, count: int) -> Iterator[str]:
    """Copy the variants of a project one after the other; yield the key of each."""
    project.mkdir(parents=True)
    (project / ".ft_dagster/store").mkdir(parents=True)
    for name in (name for name in SHARED if (origin / name).exists()):
        shutil.copytree(origin / name, project / name, copy_function=os.link)
    files = ("ft_dagster.yaml", "policy.yaml", "tenants/defaults.yaml")
    for name in (name for name in files if (origin / name).exists()):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(origin / name, project / name)
    variants = sorted(origin.glob("tenants/*/*.yaml"))
    for number in range(count):
        file = variants[number % len(variants)]
        tenant, variant = f"tenant-{number % TENANTS}", f"v{number}"
        (project / "tenants" / tenant).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, project / "tenants" / tenant / f"{variant}.yaml")
        _copy(
            origin / ".ft_dagster/store",
            project / ".ft_dagster/store",
            (file.parent.name, file.stem),
            (tenant, variant),
        )
        yield f"{tenant}.{variant}"


def _copy(origin: Path, store: Path, old: tuple[str, str], new: tuple[str, str]) -> None:
    """Copy what a store has of a variant, as if another had made it: its name and the sha256 of manifests."""
    before, after = origin / "tenants" / "/".join(old), store / "tenants" / "/".join(new)
    names = {
        f"tenants/{'/'.join(old)}": f"tenants/{'/'.join(new)}",
        f'"{".".join(old)}"': f'"{".".join(new)}"',
    }
    for file in [file for stage in ENTRIES for file in sorted(before.glob(f"{stage}/*/manifest.json"))]:
        content = file.read_text("utf-8")
        said = json.loads(_renamed(content, names))["predicate"]
        names[file.parent.name] = stage_key(
            said["stage"], said["stage_version"], said["inputs"], said["spec"]
        )
        names[sha256(content.encode()).hexdigest()] = sha256(_renamed(content, names).encode()).hexdigest()
    for file in before.glob("**/*"):
        path = str(file.relative_to(before))
        target = after / _renamed(path, names)
        if path.endswith(READ):
            target.parent.mkdir(parents=True)
            os.link(file, target)
        elif file.is_file() and (path.endswith("manifest.json") or path.startswith(KEPT)):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_renamed(file.read_text("utf-8"), names), "utf-8")
    entry = (after / "releases/000001.json").read_bytes()
    head = {"entries": 1, "schema_version": 1, "sha256": sha256(entry).hexdigest()}
    (after / "releases/head.json").write_text(json.dumps(head))


def _renamed(text: str, names: dict[str, str]) -> str:
    for name, new in names.items():
        text = text.replace(name, new)
    return text


def measure(project: Path, keys: list[str], instance: dg.DagsterInstance) -> None:
    time.sleep(SETTLED)
    settings, now, cursor = load_settings(project), datetime.now(UTC), ""

    def ticks(at: datetime) -> float:
        def once() -> None:
            nonlocal cursor
            cursor = str(tick(instance, settings, Declarations(project), cursor or None, at).seen)

        return cpu(once)

    def report(name: str, seconds: float, more: str = "") -> None:
        print(f"{name:>24} {seconds:8.2f} {more}", flush=True)

    report("rebuild", cpu(lambda: rebuild_fleet(instance, settings)))
    rows = open_fleet(instance, settings).rows()
    assert len(rows) == len(keys)
    stands = [row for row in rows if row.version and row.version.version == 1 and not row.version.causes]
    assert len(stands) == len(keys), rows[0]
    ticks(now)
    report("idle tick", sum(ticks(now + step * STEP) for step in range(1, STEPS + 1)) / STEPS)
    for key in keys[:CHANGED]:
        tenant, _, variant = key.partition(".")
        with (project / "tenants" / tenant / f"{variant}.yaml").open("a") as file:
            file.write("\nnotify: []\n")
    for key in keys[-CHANGED:]:
        ended_run(instance, key)
    report("tick, 100 changed", ticks(now + timedelta(minutes=1)))
    report("status", cpu(lambda: child(project, "-c", STATUS)))
    (project / "policy.yaml").write_text(POLICY + "methods: [lora, qlora, full]\n")
    at, each = now + timedelta(minutes=2), list[float]()
    while not each or open_fleet(instance, settings).count_unlearnt():
        each.append(ticks(at))
        at += STEP
    report("learn all", sum(each), f"in {len(each)} ticks, the longest {max(each):.2f}")
    rows = open_fleet(instance, settings).rows()
    print(sum(bool(row.version and row.version.causes) for row in rows), "stale")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    given = parser.parse_args()
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}, {given.count} variants; CPU seconds", flush=True)
    with tempfile.TemporaryDirectory() as folder, dg.instance_for_test() as instance:
        keys = list(copies(given.project.resolve(), Path(folder) / "project", given.count))
        measure(Path(folder) / "project", keys, instance)


if __name__ == "__main__":
    sys.exit(main())
