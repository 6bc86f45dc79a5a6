"""What a retry can mend is tried again by Dagster, from the last checkpoint; nothing else is."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ft_dagster.assets.failures import FAILURE
from ft_dagster.launch.processes import MARKER
from ft_dagster.store import read_head
from tests.e2e.project import UP_TO_PLAN, edit, write_project
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.long
PREFIX = "tenants/acme/places"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A project with everything up to the plan of a training long enough to be disturbed."""

    folder = write_project(tmp_path_factory.mktemp("retries"), tiny_model_folder)
    edit(folder / "ft_dagster.yaml", lambda c: c.update(retries={"attempts": 1, "wait_seconds": 0.1}))
    more = {"num_train_epochs": 24, "per_device_train_batch_size": 4, "evaluations": 10}
    edit(folder / "tenants/acme/places.yaml", lambda c: c["training"].update(more))
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        assert shop.materialize("acme.places", *UP_TO_PLAN).success
        yield shop


def trainers(folder: Path) -> list[psutil.Process]:
    """The processes that train in this project."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            ours = "ft_dagster.training" in line and str(folder) in " ".join(line)
            if ours and MARKER in process.environ():
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if "ft_dagster.launch.supervisor" not in process.cmdline()]


def trains(folder: Path, process: psutil.Process) -> bool:
    """Whether it has made steps, and there is a checkpoint to go on from."""
    output = ".ft_dagster/work/runs/*/*/output"
    steps = [file.stat().st_mtime for file in folder.glob(f"{output}/progress.json")]
    kept = list(folder.glob(f"{output}/checkpoints/*/checkpoint.json"))
    return bool(kept) and max(steps, default=0) > process.create_time()


@contextmanager
def disturbed(folder: Path, disturb: Callable[[psutil.Process], object]) -> Iterator[set[int]]:
    """`disturb(trainer)` for every trainer of the block, in the midst of its training."""
    done, seen = threading.Event(), set()

    def watch() -> None:
        while not done.is_set():
            for process in trainers(folder):
                if process.pid not in seen and trains(folder, process):
                    seen.add(process.pid)
                    disturb(process)
            time.sleep(0.1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def once(act: Callable[[psutil.Process], object]) -> Callable[[psutil.Process], None]:
    """`act` on the first process alone."""
    acted: list[psutil.Process] = []

    def disturb(process: psutil.Process) -> None:
        if not acted:
            acted.append(process)
            act(process)

    return disturb


def retries(result: dg.ExecuteInProcessResult) -> list[dg.DagsterEvent]:
    return [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]


def failure_line(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    said = present(event.step_failure_data.user_failure_data)
    assert said.metadata[FAILURE].value == said.description
    return present(said.description)


def figures(shop: Workshop) -> dict[str, Any]:
    return present(read_head(shop.store, PREFIX, "fine_tuned_model")).figures


def forget_model(shop: Workshop) -> None:
    """Let the next materialization train again from the beginning."""
    shutil.rmtree(shop.folder / ".ft_dagster/work/runs", ignore_errors=True)
    for file in (shop.folder / ".ft_dagster/store" / PREFIX / "fine_tuned_model").glob("*/manifest.json"):
        file.unlink()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_training_that_was_killed_or_preempted_goes_on_from_its_checkpoint(
    planned: Workshop, number: signal.Signals
) -> None:
    forget_model(planned)
    with disturbed(planned.folder, once(lambda process: process.send_signal(number))) as seen:
        result = planned.materialize("acme.places", "fine_tuned_model")
    assert result.success
    assert (len(retries(result)), len(seen)) == (1, 2)
    assert figures(planned)["resumed_from"]


def test_a_training_that_is_killed_each_time_ends_with_what_happened_what_was_kept_and_what_to_do(
    planned: Workshop,
) -> None:
    forget_model(planned)
    with disturbed(planned.folder, lambda process: process.kill()):
        result = planned.materialize("acme.places", "fine_tuned_model", raises=False)
    line = failure_line(result)
    assert len(retries(result)) == 1
    assert "killed (SIGKILL)" in line
    assert "Kept: the checkpoint of step" in line
    assert str(planned.folder) in line
    assert "Run it again" in line
    assert "given up after 2 tries" in line
    assert "\n" not in line


def test_a_training_that_ran_out_of_memory_is_tried_once_more_with_half_the_micro_batch(
    planned: Workshop,
) -> None:
    forget_model(planned)

    def starve(process: psutil.Process) -> None:
        process.rlimit(psutil.RLIMIT_AS, (1 << 20, 1 << 20))

    with disturbed(planned.folder, once(starve)):
        result = planned.materialize("acme.places", "fine_tuned_model")
    assert result.success
    assert len(retries(result)) == 1
    assert figures(planned)["micro_batch_halved"] is True
    (event,) = result.asset_materializations_for_node("fine_tuned_model")
    assert event.metadata["micro_batch_halved"].value is True


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGSEGV, marks=pytest.mark.long)])
def test_a_training_that_was_cancelled_or_crashed_is_not_tried_again(
    planned: Workshop, number: signal.Signals
) -> None:
    forget_model(planned)
    with disturbed(planned.folder, once(lambda process: process.send_signal(number))):
        result = planned.materialize("acme.places", "fine_tuned_model", raises=False)
    assert retries(result) == []
    assert "Kept: the checkpoint of step" in failure_line(result)


@pytest.mark.long
def test_storage_that_cannot_be_reached_is_tried_again_and_then_said(
    fresh: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    changes = {
        "store": "s3://bucket/gone",
        "store_options": {"endpoint_url": "http://127.0.0.1:9"},
        "retries": {"attempts": 1, "wait_seconds": 0},
    }
    edit(fresh.folder / "ft_dagster.yaml", lambda c: c.update(changes))
    result = fresh.materialize("acme.places", "declaration", raises=False)
    assert len(retries(result)) == 1
    assert "the storage could not be reached" in failure_line(result)
    assert "http://127.0.0.1:9" in failure_line(result)


def test_a_users_mistake_is_not_tried_again(fresh: Workshop) -> None:
    file = fresh.folder / "data" / "rows.jsonl"
    file.write_text(file.read_text() + json.dumps({"instruction": "a question"}) + "\n")
    result = fresh.materialize("acme.places", "declaration", "task_dataset", raises=False)
    assert retries(result) == []
    assert "rows.jsonl:101" in failure_line(result)
