"""What an attacker with write access does to files while a model is judged, and what comes of it.

A swap happens where it hurts: after the files were hashed, while the model is loaded from them. Before the
end all is as it was.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.__main__ import main
from ft_dagster.evaluation.models import model
from ft_dagster.export import run as export_run
from ft_dagster.export.__main__ import main as export_main
from ft_dagster.gate.samples import Sample, read_answers, read_samples
from ft_dagster.provenance import held as held_module
from ft_dagster.provenance.digest import hash_folder, payload_digest, sha256_file
from ft_dagster.provenance.held import held_files
from tests.evaluation.payloads import make_payload
from tests.evaluation.questions import row, write_database, write_rows, write_run, write_task
from tests.export.exports import CARD, DIGEST, QUESTIONS, prompt
from tests.long import mostly_long

pytestmark = pytest.mark.slow
WEIGHTS = "adapter_model.safetensors"
Swap = Callable[[Path, Path], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def by_content(good: Path, evil: Path) -> Iterator[None]:
    """Overwritten in place, then written back, with the times that it had."""
    target, times = good / WEIGHTS, os.stat(good / WEIGHTS)
    kept = target.read_bytes()
    target.write_bytes((evil / WEIGHTS).read_bytes())
    yield
    target.write_bytes(kept)
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextlib.contextmanager
def by_name(good: Path, evil: Path) -> Iterator[None]:
    """The file moved away, another under its name, then moved back."""
    target, aside = good / WEIGHTS, good.parent / "aside"
    target.rename(aside)
    shutil.copyfile(evil / WEIGHTS, target)
    yield
    aside.rename(target)


@contextlib.contextmanager
def by_folder(good: Path, evil: Path) -> Iterator[None]:
    """The whole folder moved away, another under its name, then moved back: no file is touched."""
    aside = good.with_name("aside")
    good.rename(aside)
    shutil.copytree(evil, good)
    yield
    shutil.rmtree(good)
    aside.rename(good)


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Other weights in files of the same names and sizes."""
    import safetensors.torch

    folder = make_payload("lora", tiny_model_folder, tmp_path_factory.mktemp("evil") / "weights")
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    louder = {name: tensor * (5 if "lora_B" in name else 1) for name, tensor in weights.items()}
    safetensors.torch.save_file(louder, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return make_payload("lora", tiny_model_folder, tmp_path_factory.mktemp("judged") / "weights")


@pytest.fixture
def good(tmp_path: Path, judged: Path) -> Path:
    return shutil.copytree(judged, tmp_path / "weights")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    rows = write_rows(tmp_path_factory.mktemp("rows") / "test.parquet", [row(n) for n in range(3)])
    return {"test_split_task": {"test": rows, "max_new_tokens": 2}}


@pytest.fixture(scope="module")
def honest(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, judged: Path, questions: dict[str, Any]
) -> list[Sample]:
    run = write_run(tmp_path_factory.mktemp("honest") / "run", tiny_model_folder, **questions, tuned=judged)
    assert main(run) == 0
    return samples_of(run)


@dataclass(frozen=True)
class Scene:
    """One evaluation of the weights in `good`, which an attacker would like to be those in `evil`."""

    folder: Path
    base: Path
    good: Path
    evil: Path
    questions: dict[str, Any]

    def run(self, base: Path | None = None) -> Path:
        """A run folder that asks the good weights."""
        return write_run(self.folder / "run", base or self.base, **self.questions, tuned=self.good)


@pytest.fixture
def scene(
    tmp_path: Path, tiny_model_folder: Path, good: Path, evil: Path, questions: dict[str, Any]
) -> Scene:
    return Scene(tmp_path, tiny_model_folder, good, evil, questions)


def samples_of(run: Path) -> list[Sample]:
    return read_samples(run / "output" / "payload")


def result_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "output" / "result.json").read_text())
    return content


def while_loading(monkeypatch: pytest.MonkeyPatch, swapped: Callable[[], Any]) -> list[str]:
    """Load the judged model within `swapped()`; the list says that it happened."""
    plain, seen = model.load_judged, []

    def load_judged(*given: Any, **how: Any) -> Any:
        with swapped():
            seen.append("swapped")
            return plain(*given, **how)

    monkeypatch.setattr(model, "load_judged", load_judged)
    return seen


@pytest.mark.parametrize("swap", [by_content, by_name])
def test_weights_swapped_while_they_are_judged_and_put_back_are_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, swap: Swap
) -> None:
    run, before = scene.run(), payload_digest(hash_folder(scene.good))
    seen = while_loading(monkeypatch, lambda: swap(scene.good, scene.evil))
    assert main(run) == 2
    assert seen == ["swapped"]
    assert payload_digest(hash_folder(scene.good)) == before
    error = result_of(run)["error"]
    assert error["problem"] == "was changed while it was read"
    assert error["file"] == str(scene.good / WEIGHTS)


def test_a_folder_swapped_under_its_name_is_not_what_is_judged(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, honest: list[Sample]
) -> None:
    run = scene.run()
    seen = while_loading(monkeypatch, lambda: by_folder(scene.good, scene.evil))
    assert main(run) == 0
    assert seen == ["swapped"]
    assert samples_of(run) == honest
    assert result_of(run)["figures"]["measured"]["weights"] == payload_digest(hash_folder(scene.good))


def test_other_weights_give_other_samples(
    tmp_path: Path, tiny_model_folder: Path, evil: Path, questions: dict[str, Any], honest: list[Sample]
) -> None:
    """So that the test above can fail."""
    run = write_run(tmp_path / "run", tiny_model_folder, **questions, tuned=evil)
    assert main(run) == 0
    assert samples_of(run) != honest


def test_a_base_of_the_same_size_and_time_is_not_the_same_base(scene: Scene) -> None:
    base = shutil.copytree(scene.base, scene.folder / "base")
    run, file = scene.run(base), base / "model.safetensors"
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert main(run) == 2
    error = result_of(run)["error"]
    assert "has other bytes than when it was recorded" in error["problem"]
    assert error["file"] == str(file)


def test_what_is_put_beside_the_base_is_not_read(scene: Scene, honest: list[Sample]) -> None:
    """transformers puts an adapter that lies in a model's folder on it, unasked."""
    base = shutil.copytree(scene.base, scene.folder / "base")
    run = scene.run(base)
    for file in scene.evil.glob("adapter_*"):
        shutil.copy(file, base)
    assert main(run) == 0
    assert samples_of(run) == honest


def test_a_test_split_that_is_not_the_frozen_one_is_refused(
    tmp_path: Path, tiny_model_folder: Path, questions: dict[str, Any]
) -> None:
    rows = write_rows(tmp_path / "test.parquet", [row(n) for n in range(3)])
    run = write_run(tmp_path / "run", tiny_model_folder, test_split_task={"test": rows, "max_new_tokens": 2})
    write_rows(rows, [row(n) for n in range(4)])
    assert main(run) == 2
    assert "has other bytes than when it was recorded" in result_of(run)["error"]["problem"]


def test_a_database_swapped_while_queries_run_answers_from_the_one_that_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path
) -> None:
    database = write_database(tmp_path / "towns.sqlite")
    question = {"role": "user", "content": "Which towns?"}
    answer = {"role": "assistant", "content": "SELECT name FROM town"}
    rows = write_rows(tmp_path / "test.parquet", [{**row(0), "messages": json.dumps([question, answer])}])
    own = {"test": rows, "max_new_tokens": 24, "kind": "sql", "database": database}
    run = write_run(tmp_path / "run", tiny_model_folder, test_split_task=own)

    @contextlib.contextmanager
    def emptied() -> Iterator[None]:  # and not put back: a reference query would fail on it
        database.unlink()
        sqlite3.connect(database).close()
        yield

    while_loading(monkeypatch, emptied)
    assert main(run) == 0
    assert result_of(run)["figures"]["measured"]["data"].keys() == {"test", "database"}


@pytest.mark.parametrize("restored", [False, True])
def test_a_task_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path, restored: bool
) -> None:
    file = write_task(tmp_path, "forms", 6)
    run = write_run(tmp_path / "run", tiny_model_folder, general=["forms.yaml"], limit=2)
    from lm_eval.tasks import TaskManager

    data, plain = file.with_suffix(".jsonl"), TaskManager.load
    kept = data.read_text()

    def load_another(self: Any, *given: Any, **how: Any) -> Any:
        data.write_text(kept.replace("Question", "Easy question"))
        try:
            return plain(self, *given, **how)
        finally:
            if restored:
                data.write_text(kept)

    monkeypatch.setattr(TaskManager, "load", load_another)
    assert main(run) == 2
    said = "was changed while it was read" if restored else "not what it was when the declaration was frozen"
    assert said in result_of(run)["error"]["problem"]


def test_a_task_that_is_not_the_frozen_one_is_refused(tmp_path: Path, tiny_model_folder: Path) -> None:
    write_task(tmp_path, "forms", 6)
    run = write_run(tmp_path / "run", tiny_model_folder, general=["forms.yaml"], limit=2)
    write_task(tmp_path, "forms", 7)
    assert main(run) == 2
    assert "not what it was when the declaration was frozen" in result_of(run)["error"]["problem"]


def test_questions_are_those_of_the_file_and_not_of_one_that_had_its_name_and_time(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    data = write_task(tmp_path, "forms", 6).with_suffix(".jsonl")
    times = data.stat()
    asked = []
    for name, words in (("first", "Question"), ("second", "Contest:")):
        data.write_text(data.read_text().replace("Question", words))
        os.utime(data, ns=(times.st_atime_ns, times.st_mtime_ns))
        run = write_run(tmp_path / name, tiny_model_folder, general=["forms.yaml"], limit=2)
        assert main(run) == 0
        asked.append({answer.asked.split()[0] for answer in read_answers(run / "output" / "evidence")})
    assert asked == [{"Question"}, {"Contest:"}]


@pytest.fixture
def export_request(tmp_path: Path, tiny_model_folder: Path, tiny_tokenizer: Any, good: Path) -> Path:
    """A run folder of the export program, for an adapter."""
    config = good / "adapter_config.json"
    named = {**json.loads(config.read_text()), "base_model_name_or_path": f"sha256:{DIGEST}"}
    config.write_text(json.dumps(named))
    digest = payload_digest(hash_folder(good))
    files = {file.path: file.sha256 for file in hash_folder(tiny_model_folder)}
    base = {"folder": str(tiny_model_folder), "files": files, "digest": DIGEST, "reference": "models/tiny"}
    content = {
        "schema_version": 1, "format": "adapter", "base": base,
        "weights": str(good), "weights_digest": digest,
        "card": {**CARD, "weights": digest}, "probes": [prompt(tiny_tokenizer, QUESTIONS[0])],
        "output": str(tmp_path / "run" / "output"),
    }  # fmt: skip
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(content))
    return run


@pytest.mark.parametrize("swap", mostly_long([by_content, by_name], [by_content]))
def test_weights_swapped_while_they_are_exported_and_certified_do_not_ship(
    monkeypatch: pytest.MonkeyPatch, export_request: Path, good: Path, evil: Path, swap: Swap
) -> None:
    plain = export_run._export

    def export_swapped(*given: Any) -> Any:
        with swap(good, evil):
            return plain(*given)

    monkeypatch.setattr(export_run, "_export", export_swapped)
    assert export_main(export_request) == 2
    assert result_of(export_request)["error"]["problem"] == "was changed while it was read"


def test_a_folder_swapped_under_its_name_is_not_what_ships(
    monkeypatch: pytest.MonkeyPatch, export_request: Path, good: Path, evil: Path
) -> None:
    plain = export_run._export

    def export_swapped(*given: Any) -> Any:
        with by_folder(good, evil):
            return plain(*given)

    monkeypatch.setattr(export_run, "_export", export_swapped)
    assert export_main(export_request) == 0
    shipped = export_request / "output" / "payload" / WEIGHTS
    assert shipped.read_bytes() == (good / WEIGHTS).read_bytes()


def test_a_certificate_speaks_of_the_payload_that_was_loaded(
    monkeypatch: pytest.MonkeyPatch, export_request: Path, good: Path, evil: Path
) -> None:
    """Evil bytes are written, the good ones stand there while they are compared, and are taken away again."""
    from ft_dagster.export import certificate

    plain_writer, plain_see = export_run.WRITERS["adapter"], certificate._see_export
    payload = export_request / "output" / "payload"

    def write_evil(*given: Any) -> Any:
        figures = plain_writer(*given)
        shutil.copyfile(evil / WEIGHTS, payload / WEIGHTS)
        return figures

    def see_good(*given: Any) -> Any:
        with by_folder(payload, good):
            return plain_see(*given)

    monkeypatch.setitem(export_run.WRITERS, "adapter", write_evil)
    monkeypatch.setattr(certificate, "_see_export", see_good)
    assert export_main(export_request) == 2
    assert "the certificate does not hold" in result_of(export_request)["error"]["problem"]


def test_a_fifo_in_the_place_of_a_file_ends_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "weights")
    with pytest.raises(UserError, match="not a regular file"), held_files(tmp_path / "held") as held:
        held.file("weights", tmp_path / "weights", "0" * 64)
    assert not (tmp_path / "held").exists()


@pytest.mark.parametrize("swap", [by_content, by_name])
def test_without_proc_a_swap_is_found_by_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: Swap
) -> None:
    monkeypatch.setattr(held_module, "_DESCRIPTORS", tmp_path / "none")
    for name in ("good", "evil"):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_text(name)

    def read_swapped() -> None:
        with held_files(tmp_path / "held") as held:
            read = held.tree("weights", tmp_path / "good").folder / WEIGHTS
            time.sleep(0.02)  # the clock of a file system counts in steps of some milliseconds
            with swap(tmp_path / "good", tmp_path / "evil"):
                assert read.read_text() == "evil"
            assert read.read_text() == "good"

    with pytest.raises(UserError, match="was changed while it was read"):
        read_swapped()


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A folder on a disk: in memory, where `make test` writes, no write through a memory map moves a time."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_a_write_through_a_memory_map_of_before_is_found(on_disk: Path) -> None:
    """Its page is dirty when the file is hashed: but for the fsync, a later write would move no time."""
    file = on_disk / WEIGHTS
    file.write_bytes(b"good" * 1024)

    def write_meanwhile(mapped: mmap.mmap) -> None:
        with held_files(on_disk / "held") as held:
            held.watch(file)
            time.sleep(0.02)
            mapped[0:4] = b"evil"
            mapped[0:4] = b"good"

    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[0:4] = b"good"
        time.sleep(0.02)
        with pytest.raises(UserError, match="was changed while it was read"):
            write_meanwhile(mapped)


WRITER = """
import mmap, sys, time
file, ended = open(sys.argv[1], "r+b"), time.monotonic() + 30
mapped, wanted = mmap.mmap(file.fileno(), 0), open(sys.argv[2], "r+b")
letter = mmap.mmap(wanted.fileno(), 1)
print("writing", flush=True)
while time.monotonic() < ended:
    for _ in range(1000):
        mapped[0] = letter[0]
"""


def test_who_never_stops_writing_through_a_memory_map_is_found_too(on_disk: Path) -> None:
    """Only the first write after a write-back moves the times, and it may fall before they are looked at."""
    file, wanted = on_disk / "weights", on_disk / "wanted"
    file.write_bytes(b"G" * 4096)
    wanted.write_bytes(b"G")
    good = sha256_file(file)
    command = [sys.executable, "-c", WRITER, str(file), str(wanted)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer, wanted.open("r+b") as opened:
        assert writer.stdout is not None
        writer.stdout.readline()
        letter = mmap.mmap(opened.fileno(), 1)
        try:
            for _ in range(2):
                with pytest.raises(
                    UserError, match=r"changed while it was read|is being written to|other bytes"
                ):
                    swap_between(on_disk / "held", file, good, letter)
        finally:
            writer.kill()


def swap_between(folder: Path, file: Path, good: str, letter: mmap.mmap) -> None:
    """Hold the file; other bytes are in it while it is read, and the good ones again at the end."""
    try:
        with held_files(folder) as held:
            link = held.file("weights", file, good)
            letter[0] = ord("E")
            while link.read_bytes()[0] != ord("E"):
                pass
            letter[0] = ord("G")
            while link.read_bytes()[0] != ord("G"):
                pass
    finally:
        letter[0] = ord("G")
