"""A checkpoint exists once it is committed, is used only if it verifies, and is kept by rule."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from ft_dagster.provenance.digest import sha256_file
from ft_dagster.training import checkpoints

FILES = ("adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "journal.json")


def write(root: Path, step: int, loss: float | None = None, recipe: str = "r") -> Path:
    folder = checkpoints.folder_of(root, step)
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(f"{name} of step {step}")
    checkpoints.commit(folder, step, recipe, loss)
    return folder


def steps(root: Path, said: list[str] | None = None) -> list[int]:
    say = (said if said is not None else []).append
    return [checkpoint.step for checkpoint in checkpoints.usable(root, "r", say)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["deleted", "changed", "cut"])
def test_a_checkpoint_with_any_file_harmed_is_passed_over_for_the_one_before(
    tmp_path: Path, name: str, harm: str
) -> None:
    write(tmp_path, 9)
    file = write(tmp_path, 10) / name
    text = file.read_text()
    if harm == "deleted":
        file.unlink()
    else:
        file.write_text(text[:-1] + "?" if harm == "changed" else text[:-1])
    said: list[str] = []
    assert steps(tmp_path, said) == [9]
    assert len(said) == 1
    assert name in said[0]


def test_a_checkpoint_that_the_disk_does_not_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 9)
    bad = write(tmp_path, 10) / FILES[1]

    def read(file: Path) -> str:
        if file == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sha256_file(file)

    monkeypatch.setattr(checkpoints, "sha256_file", read)
    said: list[str] = []
    assert steps(tmp_path, said) == [9]
    assert said == [f"checkpoint-10: {FILES[1]} cannot be read (Input/output error), passed over"]


def test_a_folder_without_manifest_is_not_a_checkpoint(tmp_path: Path) -> None:
    (write(tmp_path, 3) / checkpoints.MANIFEST).unlink()
    said: list[str] = []
    assert (steps(tmp_path, said), said) == ([], ["checkpoint-3: incomplete, passed over"])


@pytest.mark.slow
@pytest.mark.parametrize("loss", [1.25, None, float("nan")])
def test_a_byte_of_its_manifest_that_is_another_changes_nothing_or_is_noticed(
    tmp_path: Path, loss: float | None
) -> None:
    manifest = write(tmp_path, 3, loss) / checkpoints.MANIFEST
    content = manifest.read_bytes()
    [before] = checkpoints.complete(tmp_path)
    noticed = 0
    for at in range(len(content)):
        manifest.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        found = checkpoints.complete(tmp_path)
        assert found in ([], [before])
        noticed += not found
    assert noticed == len(content) - len(checkpoints.OWN_HASH)  # without its name it is an older one


def test_a_manifest_of_before_it_said_its_own_hash_is_read(tmp_path: Path) -> None:
    manifest = write(tmp_path, 3) / checkpoints.MANIFEST
    content = json.loads(manifest.read_text("utf-8"))
    del content[checkpoints.OWN_HASH]
    manifest.write_text(json.dumps(content), "utf-8")
    assert steps(tmp_path) == [3]


def test_a_checkpoint_of_another_recipe_is_passed_over_out_loud(tmp_path: Path) -> None:
    write(tmp_path, 3, recipe="other")
    said: list[str] = []
    assert steps(tmp_path, said) == []
    assert "another recipe" in said[0]


def test_the_best_by_validation_loss_and_the_newest_are_kept(tmp_path: Path) -> None:
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0, 6.0], start=1):
        write(tmp_path, step, loss)
        checkpoints.prune(tmp_path, "r", keep_best=2, keep_last=1, exportable=range(7))
    assert steps(tmp_path) == [2, 3, 6]


def test_one_by_time_takes_no_place_of_one_at_an_evaluation(tmp_path: Path) -> None:
    for step in (2, 3, 4, 5):
        write(tmp_path, step, None)
        checkpoints.prune(tmp_path, "r", keep_best=1, keep_last=2, exportable=[2, 4])
    assert steps(tmp_path) == [2, 4, 5]
    write(tmp_path, 6, None)
    checkpoints.prune(tmp_path, "r", keep_best=1, keep_last=2, exportable=[2, 4, 6])
    assert steps(tmp_path) == [4, 6]


def test_retention_leaves_checkpoints_of_another_recipe_alone(tmp_path: Path) -> None:
    write(tmp_path, 1, 1.0, recipe="other")
    write(tmp_path, 2, 2.0)
    write(tmp_path, 3, 3.0)
    checkpoints.prune(tmp_path, "r", keep_best=1, keep_last=1, exportable=[1, 2, 3])
    assert [checkpoint.step for checkpoint in checkpoints.complete(tmp_path)] == [1, 2, 3]


def test_a_loss_that_is_not_a_number_is_never_the_best(tmp_path: Path) -> None:
    write(tmp_path, 1, float("nan"))
    write(tmp_path, 2, 5.0)
    good = checkpoints.usable(tmp_path, "r", print)
    assert min(good, key=lambda checkpoint: checkpoint.rank).step == 2


def test_whoever_takes_the_best_or_the_newest_looks_at_no_other(tmp_path: Path) -> None:
    (write(tmp_path, 1, 2.0) / FILES[0]).unlink()
    write(tmp_path, 2, 1.0)
    write(tmp_path, 3, 3.0)
    said: list[str] = []
    best = next(checkpoints.usable(tmp_path, "r", said.append, first=checkpoints.best_first))
    newest = next(checkpoints.usable(tmp_path, "r", said.append, first=checkpoints.newest_first))
    assert (best.step, newest.step, said) == (2, 3, [])


def test_where_the_best_is_damaged_the_next_best_is_taken(tmp_path: Path) -> None:
    write(tmp_path, 1, 2.0)
    (write(tmp_path, 2, 1.0) / FILES[0]).unlink()
    write(tmp_path, 3, 3.0)
    said: list[str] = []
    assert next(checkpoints.usable(tmp_path, "r", said.append, first=checkpoints.best_first)).step == 1
    assert said == [f"checkpoint-2: {FILES[0]} is missing, passed over"]


def test_all_of_a_recipe_go_and_others_stay(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2, recipe="other")
    (write(tmp_path, 3) / checkpoints.MANIFEST).unlink()
    checkpoints.discard_all(tmp_path, "r")
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-2"]
