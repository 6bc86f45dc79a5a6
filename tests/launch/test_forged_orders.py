"""An order comes out of the store, and so of whoever may write there: it runs the trainer in the node's own
folders, by the node's own environment, or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, DONE
from ft_dagster.launch.launcher import Job
from ft_dagster.launch.remote.node import Stopping, carry_out_order
from ft_dagster.launch.remote.order import order_file, output_folder
from ft_dagster.store.blobs import Store
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.training.contract import CHECKPOINTS
from tests.launch.remote_jobs import PLACE, part, send, staging, training_job
from tests.training.runs import Runs, write_mixture

Content = dict[str, Any]


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def job(runs: Runs) -> Job:
    return training_job(runs, "away", training={"max_steps": 1})


def forged(store: Store, change: Callable[[Content], object]) -> None:
    """Change the newest order, as a writer of the store can."""
    content = store.read_json(order_file(PLACE))
    change(content)
    store.write_json(order_file(PLACE), content)


def carried_out(store: Store, folder: Path) -> tuple[int, str]:
    """What a node makes of the newest order: its exit code and what it says."""
    said = list[str]()
    code = carry_out_order(store, PLACE, part(folder), said.append, Stopping())
    return code, "\n".join(said)


def set_input(**changes: str) -> Callable[[Content], object]:
    def change(content: Content) -> None:
        path, stored, sha256 = content["inputs"][0]
        content["inputs"][0] = list({"path": path, "stored": stored, "sha256": sha256, **changes}.values())

    return change


def set_plan(**deepspeed: Any) -> Callable[[Content], object]:
    return lambda content: content["request"]["members"][0]["plan"]["training"]["deepspeed"].update(deepspeed)


ASKED_TASKS = {"tasks": {"quiz": "0" * 64}, "project": "/ft_dagster.node/inputs"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(module="os"), "module"),
        (lambda content: content.update(module="ft_dagster.evaluation"), "module"),
        (lambda content: content.update(environment={"LD_PRELOAD": "/evil.so"}), "environment"),
        (lambda content: content.update(work_folder="/"), "work_folder"),
        (lambda content: content.update(attempt="../../outside"), "attempt"),
        (lambda content: content.update(kept_in="../outside"), "kept_in"),
        (lambda content: content.update(whole_with="/outside"), "whole_with"),
        (lambda content: content.update(threads="1; true"), "threads"),
        (set_input(path="../../outside"), "leads out of its folder"),
        (set_input(path="/outside"), "leads out of its folder"),
        (set_input(stored="../outside"), "leads out of its folder"),
        (set_input(sha256="../../outside"), "inputs.0.2"),
        (set_plan(stage=3), "no training is sharded by ZeRO on a cluster"),
        (set_plan(offload="nvme", nvme_path="/"), "no training is sharded by ZeRO on a cluster"),
        (lambda content: content["request"]["members"][0].update(benchmarks=ASKED_TASKS), "no benchmarks"),
        (lambda content: content.clear(), "not an order"),
    ],
)
def test_an_order_that_asks_for_more_than_a_training_is_refused_before_anything_is_read(
    store: Store, job: Job, tmp_path: Path, change: Callable[[Content], object], said: str
) -> None:
    send(store, job, tmp_path / "node")
    forged(store, change)
    code, lines = carried_out(store, tmp_path / "node")
    assert code == BAD_INPUT
    assert said in lines
    assert len(lines.splitlines()) == 1
    assert not (tmp_path / "node").exists()


def test_an_order_of_the_first_schema_with_an_environment_and_folders_of_its_own_is_refused(
    store: Store, job: Job, tmp_path: Path
) -> None:
    send(store, job, tmp_path / "node")
    first = {"schema_version": 1, "environment": {}, "work_folder": "/tmp/work", "cache_bytes": None}
    forged(store, lambda content: content.update(first))
    code, lines = carried_out(store, tmp_path / "node")
    assert (code, len(lines.splitlines())) == (BAD_INPUT, 1)
    assert "an order that no node carries out" in lines


@pytest.mark.parametrize(
    "output", ["{folder}/outside", "/ft_dagster.node/run/../../../../outside", "../outside"]
)
def test_a_program_of_a_node_names_no_path_outside_of_its_folders(
    store: Store, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.chdir(tmp_path / "away")
    send(store, job, tmp_path / "node")
    there = output.format(folder=tmp_path)
    forged(store, lambda content: content["request"]["members"][0].update(output=there))
    code, lines = carried_out(store, tmp_path / "node")
    assert code == BAD_INPUT
    assert "a path outside of this node's own folders" in lines
    assert not list(tmp_path.rglob("outside"))


def test_a_file_of_an_earlier_attempt_that_leads_out_of_the_output_is_refused(
    store: Store, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a key of S3 may."""
    send(store, job, tmp_path / "node")
    checkpoint = f"{CHECKPOINTS}/checkpoint-5"
    whole = f"{checkpoint}/{MANIFEST}"
    store.write_json(f"{output_folder(PLACE)}/{whole}", {})
    listed = {whole: 2, f"{checkpoint}/../../../outside": 1}
    real = Store.files_below

    def files_below(self: Store, folder: str) -> dict[str, int]:
        return listed if folder == output_folder(PLACE) else real(self, folder)

    monkeypatch.setattr(Store, "files_below", files_below)
    code, lines = carried_out(store, tmp_path / "node")
    assert code == BAD_INPUT
    assert "is not below the output" in lines


def test_a_program_has_the_environment_of_its_node_and_no_other(
    store: Store, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the cluster's settings name comes with the pod or the Ray job, not out of the store."""
    send(store, job, tmp_path / "node")
    order = json.dumps(store.read_json(order_file(PLACE)))
    assert "OMP_NUM_THREADS" not in order
    assert str(tmp_path / "node") not in order
    side = staging(store, tmp_path / "node", environment={"NCCL_SOCKET_IFNAME": "eth0"})
    assert side.environment == {"NCCL_SOCKET_IFNAME": "eth0"}
    assert "NCCL_SOCKET_IFNAME" not in json.dumps(side.prepare(job).model_dump(mode="json"))
    assert carried_out(store, tmp_path / "node")[0] == DONE


def test_a_plan_that_shards_is_refused_before_its_order_is_sent(
    store: Store, runs: Runs, tmp_path: Path
) -> None:
    sharded = training_job(runs, "away", method={"name": "full"}, training={"deepspeed": {"stage": 3}})
    with pytest.raises(UserError, match="sharded by ZeRO on a cluster") as refused:
        staging(store, tmp_path / "node").prepare(sharded)
    assert "deepspeed: 0" in refused.value.fix
    assert store.names(PLACE) == []
