"""Small trainings as jobs that can run on another machine, over a store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_dagster.cluster import Cluster
from ft_dagster.launch.launcher import (
    OUTPUT,
    RUN_FILE,
    Belongings,
    Job,
    LocalLauncher,
    carry_out,
)
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.remote.folders import NodeDisk
from ft_dagster.launch.remote.node import NodePart
from ft_dagster.launch.remote.staging import Staging
from ft_dagster.program import LentFolder
from ft_dagster.provenance.digest import hash_folder
from ft_dagster.store.blobs import Store
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.contract import CHECKPOINTS, TrainingRun
from tests.launch.helpers import slots
from tests.training.runs import Runs

PLACE = "tenants/acme/support/fine_tuned_model/" + "0" * 64 + "/nodes/evidence"
BASE = "shared/base_model/" + "b" * 64 + "/nodes/payload"
LONG = {"num_train_epochs": 60.0, "evaluations": 12}  # of some seconds, with checkpoints to go on from


def training_job(runs: Runs, name: str, *, ask: Ask | None = None, **prepared: Any) -> Job:
    """A training of `runs`, as the stage asks for it: one member, whose output is that of the job."""
    run_dir = runs.prepare(name, **prepared)
    content = json.loads((run_dir / RUN_FILE).read_text("utf-8"))
    content["members"][0]["output"] = str(run_dir / OUTPUT)
    content["launch"]["nodes"] = ask.nodes if ask else 1
    content["launch"]["ranks_per_node"] = prepared.get("ranks", 1) // content["launch"]["nodes"]
    lent = {
        runs.base: LentFolder(_hashes(runs.base), BASE, by_hash=True),
        runs.mixture: LentFolder(_hashes(runs.mixture), "mixture", by_hash=True),
    }
    things = Belongings(PLACE, lent, runs.folder / "cache", CHECKPOINTS, MANIFEST)
    request = TrainingRun.model_validate(content)
    return Job(
        "training", run_dir, request, ask or Ask("acme.support", "acme", 1, 0, "a test", "run"),
        {"OMP_NUM_THREADS": "1"}, "acme.support", things,
    )  # fmt: skip


def staging(store: Store, node_folder: Path, **cluster: Any) -> Staging:
    """Between this host and nodes that work in a folder."""
    return Staging(store, Cluster(work_folder=node_folder, **cluster))


def part(folder: Path) -> NodePart:
    """The only node of a training, which works in a folder."""
    return NodePart(NodeDisk(folder))


def send(store: Store, job: Job, node: Path) -> str:
    """Order a training; the attempt."""
    side = staging(store, node)
    order = side.prepare(job, threads=1)
    side.send(job, order)
    return order.attempt


def trained_here(runs: Runs) -> dict[str, bytes]:
    """The payload of a LONG training under a lease of this host."""
    here = training_job(runs, "here", training=LONG)
    carry_out(LocalLauncher(Leases(runs.folder / "leases", slots(1))), here, print)
    return payload_of(here)


def payload_of(job: Job) -> dict[str, bytes]:
    """What a training left on this host."""
    payload = job.run_dir / OUTPUT / "payload"
    return {file.name: file.read_bytes() for file in sorted(payload.iterdir())}


def kept(store: Store, place: str = PLACE) -> list[str]:
    """The checkpoints that are whole in the store."""
    folder = f"{place}/output/{CHECKPOINTS}"
    return [name for name in store.names(folder) if store.exists(f"{folder}/{name}/{MANIFEST}")]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _hashes(folder: Path) -> dict[str, str]:
    return {file.path: file.sha256 for file in hash_folder(folder)}
