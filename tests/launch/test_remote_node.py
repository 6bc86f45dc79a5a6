"""A training on another machine: the same model, kept while it runs, and nothing left behind."""

from __future__ import annotations

import hashlib
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, DONE, TRANSIENT
from ft_dagster.launch.launcher import OUTPUT, RESULT_FILE, RUN_FILE, Belongings, Job
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.remote.kept import Kept
from ft_dagster.launch.remote.node import Stopping, carry_out_order
from ft_dagster.launch.remote.order import RemoteOrder, order_file, output_folder, written_file
from ft_dagster.launch.remote.staging import belongings_of, kept_by_nodes, recall
from ft_dagster.program import write_json
from ft_dagster.store.blobs import Store
from ft_dagster.store.checkpoint_mirror import forget
from ft_dagster.training.contract import TrainingRun
from ft_dagster.training.oom_retry import OUT_OF_MEMORY, wants_halving
from tests.launch.remote_jobs import (
    LONG,
    PLACE,
    kept,
    part,
    payload_of,
    send,
    staging,
    trained_here,
    training_job,
    wait_for,
)
from tests.s3_server import S3Server
from tests.training.runs import Runs, write_mixture


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_memory_that_ran_out_on_a_node_halves_the_next_try_and_the_ones_after(
    runs: Runs, store: Store, tmp_path: Path
) -> None:
    job = training_job(runs, "away")
    (job.run_dir / RUN_FILE).unlink()  # a cluster's run has what was sent alone
    assert not wants_halving(job.run_dir, job.result_file)
    send(store, job, tmp_path / "node")
    said = {"schema_version": 1, "variant": "acme.support", "status": "failed", "recipe": ""}
    write_json(job.result_file, {**said, "reason": OUT_OF_MEMORY})
    assert wants_halving(job.run_dir, job.result_file)
    request = job.request.model_dump()
    request["members"][0]["micro_batch_halved"] = True
    send(store, replace(job, request=TrainingRun.model_validate(request)), tmp_path / "node")
    assert not job.result_file.exists()
    assert wants_halving(job.run_dir, job.result_file)


def test_a_step_without_the_folder_of_its_former_self_knows_what_the_newest_try_was_and_said(
    runs: Runs, store: Store, tmp_path: Path
) -> None:
    """A run in a pod has a disk of its own, which is gone with it."""
    job, side = training_job(runs, "away"), staging(store, tmp_path / "node")

    def asked_anew() -> RemoteOrder:
        """As the stage asks."""
        shutil.rmtree(job.run_dir)
        recall(store, PLACE, job.run_dir)
        request = job.request.model_dump()
        request["members"][0]["micro_batch_halved"] = wants_halving(job.run_dir, job.result_file)
        return side.prepare(replace(job, request=TrainingRun.model_validate(request)))

    first = asked_anew()
    side.send(job, first)
    assert first.does_what(asked_anew())
    ran_out(store, first, tmp_path / "output")
    second = asked_anew()
    side.send(job, second)
    assert second.request["members"][0]["micro_batch_halved"]
    assert second.does_what(asked_anew())
    assert not second.does_what(first)


def test_what_ended_damaged_or_out_of_the_folder_says_nothing_to_the_next_try(
    runs: Runs, store: Store, tmp_path: Path
) -> None:
    job, side = training_job(runs, "away"), staging(store, tmp_path / "node")
    order = side.prepare(job)
    side.send(job, order)
    ran_out(store, order, tmp_path / "output")
    store.write(f"{output_folder(PLACE)}/{RESULT_FILE}", b"{}")
    recall(store, PLACE, job.run_dir)
    assert not job.result_file.exists()
    for written in (b"no JSON", b'{"files": []}'):
        store.write(written_file(PLACE, order.attempt), written)
        recall(store, PLACE, job.run_dir)
        assert not job.result_file.exists()
    shutil.rmtree(job.run_dir)
    store.write_json(order_file(PLACE), {"schema_version": 99})
    recall(store, PLACE, job.run_dir)
    assert not job.run_dir.exists()


def ran_out(store: Store, order: RemoteOrder, output: Path) -> None:
    """What a node leaves of a program whose memory ran out."""
    said = {"schema_version": 1, "variant": "acme.support", "status": "failed", "recipe": ""}
    write_json(output / RESULT_FILE, {**said, "reason": OUT_OF_MEMORY})
    Kept(store, PLACE, order, output).finish(TRANSIENT)


@pytest.mark.long
@pytest.mark.slow
def test_a_node_trains_what_this_host_would_have_from_an_object_store(
    runs: Runs, tmp_path: Path, s3_server: S3Server
) -> None:
    store = Store(f"s3://{s3_server.bucket}/nodes", s3_server.options)
    job = training_job(runs, "away", training=LONG)
    attempt, node, said = send(store, job, tmp_path / "node"), tmp_path / "node", list[str]()
    assert carry_out_order(store, PLACE, part(tmp_path / "node"), said.append, Stopping()) == DONE
    assert any("step 1/" in line for line in said)
    staging(store, node).collect(job, attempt)
    assert job.read_result(DONE)["status"] == "done"
    assert (job.run_dir / OUTPUT / "evidence" / "log.jsonl").exists()
    assert not (job.run_dir / OUTPUT / "checkpoints").exists()
    assert list((node / "runs").iterdir()) == []
    assert payload_of(job) == trained_here(runs)
    forget(store, PLACE)
    assert store.files_below(PLACE) == {}


@pytest.mark.slow
@pytest.mark.long
def test_what_was_preempted_on_one_node_goes_on_on_another_to_the_same_model(
    runs: Runs, store: Store, tmp_path: Path
) -> None:
    job, stopping, codes, said = training_job(runs, "away", training=LONG), Stopping(), [], list[str]()
    send(store, job, tmp_path / "first")
    thread = threading.Thread(
        target=lambda: codes.append(
            carry_out_order(store, PLACE, part(tmp_path / "node"), said.append, stopping)
        )
    )
    thread.start()
    wait_for(lambda: kept(store))
    stopping.asked = signal.SIGTERM
    thread.join()
    assert codes == [TRANSIENT]
    assert "the checkpoint of step" in kept_by_nodes(store, belongings_of(job))
    attempt, again = send(store, job, tmp_path / "second"), list[str]()
    assert carry_out_order(store, PLACE, part(tmp_path / "node"), again.append, Stopping()) == DONE
    assert any("resuming at step" in line for line in again)
    staging(store, tmp_path).collect(job, attempt)
    assert payload_of(job) == trained_here(runs)


@pytest.mark.slow
@pytest.mark.long
def test_who_works_on_an_older_order_stops_and_keeps_nothing_more(
    runs: Runs, store: Store, tmp_path: Path
) -> None:
    job, codes = training_job(runs, "away", training={**LONG, "num_train_epochs": 400.0}), list[int]()
    send(store, job, tmp_path / "first")
    thread = threading.Thread(
        target=lambda: codes.append(
            carry_out_order(store, PLACE, part(tmp_path / "node"), lambda line: None, Stopping())
        )
    )
    thread.start()
    wait_for(lambda: kept(store))
    newer = send(store, job, tmp_path / "second")
    thread.join(120)
    assert codes == [TRANSIENT]
    assert store.read_json(order_file(PLACE))["attempt"] == newer
    assert not [name for name in store.names(PLACE) if name.startswith("written-")]


def test_a_node_with_other_code_refuses_and_says_so(runs: Runs, store: Store, tmp_path: Path) -> None:
    job, side, said = training_job(runs, "away"), staging(store, tmp_path / "node"), list[str]()
    order = side.prepare(job).model_copy(update={"code": "0" * 64})
    side.send(job, order)
    assert carry_out_order(store, PLACE, part(tmp_path / "node"), said.append, Stopping()) == BAD_INPUT
    side.collect(job, order.attempt)
    with pytest.raises(ProgramFailed, match="has another ft-dagster") as failure:
        job.read_result(BAD_INPUT)
    assert not failure.value.mendable
    assert "Install the same version" in said[0]


def test_a_machine_that_does_not_see_the_store_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    assert (
        carry_out_order(Store(str(tmp_path)), PLACE, part(tmp_path / "node"), said.append, Stopping())
        == BAD_INPUT
    )
    assert "Name a store that this machine sees too" in said[0]


def test_a_node_that_cannot_write_says_so_and_leaves_it_to_another(store: Store, tmp_path: Path) -> None:
    job, node, said = plain_job(tmp_path), tmp_path / "node", list[str]()
    node.write_text("a file where its folder belongs")
    send(store, job, node)
    assert carry_out_order(store, PLACE, part(tmp_path / "node"), said.append, Stopping()) == TRANSIENT
    assert "cannot be written" in said[0]
    assert str(node) in said[0]


def test_an_input_that_was_lost_can_be_mended_by_another_try(
    runs: Runs, store: Store, tmp_path: Path
) -> None:
    job = training_job(runs, "away")
    send(store, job, tmp_path / "node")
    store.remove(f"mixture/{name}" for name in store.names("mixture"))
    assert carry_out_order(store, PLACE, part(tmp_path / "node"), print, Stopping()) == TRANSIENT
    send(store, job, tmp_path / "node")
    assert store.names("mixture")


def test_inputs_are_sent_once(runs: Runs, store: Store, tmp_path: Path) -> None:
    job = training_job(runs, "away")
    side = staging(store, tmp_path / "node")
    order = side.prepare(job)
    sent = {each.stored: store.modified(each.stored) for each in order.inputs}
    assert {each.sha256 for each in order.inputs} == {
        *belongings_of(job).lent[runs.base].files.values(),
        *belongings_of(job).lent[runs.mixture].files.values(),
    }
    side.prepare(job)
    assert {stored: store.modified(stored) for stored in sent} == sent


def test_what_lies_elsewhere_on_this_host_is_refused(runs: Runs, store: Store, tmp_path: Path) -> None:
    job = training_job(runs, "away", mixture=str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="no part of what a training brings"):
        staging(store, tmp_path / "node").prepare(job)


def test_the_same_work_is_known_whichever_run_asks_for_it(runs: Runs, store: Store, tmp_path: Path) -> None:
    side, job = staging(store, tmp_path / "node"), training_job(runs, "away")
    first = side.prepare(job)
    asked_again = replace(job, request=job.request.model_copy(update={"run_id": "another"}))
    assert side.prepare(asked_again).does_what(first)
    other = training_job(runs, "away", training={"learning_rate": 1e-4})
    assert not side.prepare(other).does_what(first)


def test_a_result_of_a_mistake_is_not_left_to_the_next_attempt(
    runs: Runs, store: Store, tmp_path: Path
) -> None:
    job, side = training_job(runs, "away"), staging(store, tmp_path / "node")
    order = side.prepare(job)
    side.send(job, order)
    side.collect(job, order.attempt)  # nothing was written by it
    assert not (job.run_dir / OUTPUT / RESULT_FILE).exists()


@pytest.mark.parametrize("path", ["{outside}", "../../outside", "evidence/../../../outside"])
def test_a_list_that_leads_out_of_the_output_is_refused(path: str, store: Store, tmp_path: Path) -> None:
    outside, content = tmp_path / "outside", b"planted"
    path = path.format(outside=outside)
    job = plain_job(tmp_path)
    if path.startswith("/"):
        store.write(f"{output_folder(PLACE)}{path}", content)
    listed = {"exit_code": 0, "files": {path: hashlib.sha256(content).hexdigest()}}
    store.write_json(written_file(PLACE, "attempt"), listed)
    with pytest.raises(UserError, match="not below the output"):
        staging(store, tmp_path / "node").collect(job, "attempt")
    assert not outside.exists()


class NoRequest(BaseModel):
    """What a training that is not run is asked."""


def plain_job(folder: Path) -> Job:
    """Of a training that is not run."""
    things = Belongings(PLACE, {}, folder / "cache", "checkpoints", "manifest.json")
    return Job("training", folder / "runs" / "job", NoRequest(), None, {}, "acme.support", things)
