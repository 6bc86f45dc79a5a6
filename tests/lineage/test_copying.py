"""`store copy`: between folder and S3 nothing is lost, wherever it is killed, whatever goes on meanwhile."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.copying import Copied, copy_store
from ft_dagster.lineage.log import read_log
from ft_dagster.lineage.release import export_of, history
from ft_dagster.lineage.retention import Rules
from ft_dagster.settings import Retention
from ft_dagster.store import (
    Artifact,
    Attempt,
    Place,
    Store,
    begin_attempt,
    exclusive,
    find_artifact,
    removal,
    verify_artifact,
    write_head,
)
from ft_dagster.store.artifacts import Removed, generations
from ft_dagster.store.contents import contents_of
from ft_dagster.store.make import Recipe, make_artifact
from tests.kept_project import OLD_PROJECT
from tests.releases import adapter, put, release
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

PREFIX = "tenants/acme/support"


@pytest.fixture
def remote(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    url = f"s3://{s3_server.bucket}/{tmp_path.name}"
    return Store(url, s3_server.options, tmp_path / "locks")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With two releases of a variant and a data set."""
    made = Store(str(tmp_path / "store"))
    for number in (1, 2):
        release(made, "acme.support", adapter(number), work=tmp_path / "work")
    write_head(
        made, PREFIX, put(made, "task_dataset", PREFIX, {"n.json": 1}, {}, work=tmp_path / "work"), None
    )
    return made


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "other"))


@pytest.fixture(params=["folder", "s3"])
def target(request: pytest.FixtureRequest, other: Store) -> Store:
    """To be copied into: a folder, and below an s3:// prefix."""
    found: Store = other if request.param == "folder" else request.getfixturevalue("remote")
    return found


def copied(source: Store, target: Store, tmp_path: Path) -> list[Copied]:
    return list(copy_store(source, target, tmp_path / "drafts", rules()))


def rules(**retention: Any) -> Rules:
    """Of the target, for all tenants, now."""
    return Rules(lambda tenant: Retention(**retention), time.time())


def files(store: Store) -> dict[str, bytes]:
    names = [file.path for file in store.walk() if file.path != exclusive.WRITER]
    return {name: store.read(name) for name in names}


def test_to_s3_and_back_every_byte_is_the_same(
    store: Store, remote: Store, other: Store, tmp_path: Path
) -> None:
    copied(store, remote, tmp_path)
    assert files(remote) == files(store)
    copied(remote, other, tmp_path)
    assert files(other) == files(store)
    assert history(other, PREFIX) == history(store, PREFIX)
    for keyed in contents_of(other).keyed.values():
        if keyed.artifact is not None:
            verify_artifact(other, keyed.artifact, tmp_path / "cache")
    assert list((tmp_path / "drafts").iterdir()) == []


def test_a_store_of_an_earlier_version_keeps_its_logs_and_its_verdicts(other: Store, tmp_path: Path) -> None:
    old = Store(str(OLD_PROJECT / "store"))
    copied(old, other, tmp_path)
    assert files(other) == files(old)


def test_a_second_copy_moves_nothing_and_then_what_came_meanwhile(
    store: Store, other: Store, tmp_path: Path
) -> None:
    copied(store, other, tmp_path)
    again = copied(store, other, tmp_path)
    assert {one.how for one in again} == {"there"}
    assert sum(one.bytes for one in again) == 0
    release(store, "acme.support", adapter(3), work=tmp_path / "work")
    more = [one.path for one in copied(store, other, tmp_path) if one.how == "copied"]
    assert f"{PREFIX}/releases/000003.json" in more
    assert files(other) == files(store)


def test_wherever_it_is_killed_the_copy_holds_and_the_next_call_ends_it(
    store: Store, target: Store, tmp_path: Path
) -> None:
    whole, step = files(store), 7
    done = step
    while done == step:
        done = 0
        for one in copy_store(store, target, tmp_path / "drafts", rules()):
            done += one.how == "copied"
            if done == step:
                break
        for keyed in contents_of(target).keyed.values():
            assert keyed.damaged is None
            if keyed.artifact is not None:
                verify_artifact(target, keyed.artifact, tmp_path / "cache")
        read_log(target, PREFIX)
    assert files(target) == whole


def test_what_was_half_written_is_written_again(store: Store, other: Store, tmp_path: Path) -> None:
    (keyed, *_) = [k for k in contents_of(store).keyed.values() if k.place.stage == "model_export"]
    assert keyed.artifact is not None
    name = f"{keyed.artifact.path}/payload/adapter_model.safetensors"
    other.write(name, b"half")
    copied(store, other, tmp_path)
    assert other.read(name) == store.read(name)


def test_other_bytes_in_the_source_are_named_and_not_committed(
    store: Store, other: Store, tmp_path: Path
) -> None:
    (keyed, *_) = [k for k in contents_of(store).keyed.values() if k.place.stage == "model_export"]
    assert keyed.artifact is not None
    name = f"{keyed.artifact.path}/payload/adapter_model.safetensors"
    Path(store.path(name)).write_bytes(b"other")
    with pytest.raises(UserError, match=r"store/.*adapter_model\.safetensors: has other bytes"):
        copied(store, other, tmp_path)
    assert not other.exists(keyed.place.manifest)
    assert history(other, PREFIX) == []


def test_a_target_that_loses_what_it_takes_is_found_out(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Store, "upload", lambda self, source, relative: self.write(relative, source.read_bytes()[:-1])
    )
    with pytest.raises(UserError, match=r"other/.*was not read back as it was written"):
        copied(store, other, tmp_path)


def test_stores_that_went_their_own_ways_are_refused(store: Store, other: Store, tmp_path: Path) -> None:
    copied(store, other, tmp_path)
    release(store, "acme.support", adapter(3), work=tmp_path / "work")
    release(other, "acme.support", adapter(4), work=tmp_path / "work")
    with pytest.raises(UserError, match=r"other/.*000003\.json: another file than"):
        copied(store, other, tmp_path)
    assert len(history(other, PREFIX)) == 3


def test_a_target_that_went_on_keeps_its_log_and_its_heads(
    store: Store, other: Store, tmp_path: Path
) -> None:
    shutil.copytree(store.root, other.root)
    time.sleep(1.1)  # heads are dated in seconds
    release(other, "acme.support", adapter(3), work=tmp_path / "work")
    before = files(other)
    left = {one.path for one in copied(store, other, tmp_path) if one.how == "left"}
    assert left == {f"{PREFIX}/heads/model_export.json"}
    assert files(other) == before


def test_what_retention_removed_stays_removed_and_what_was_made_again_comes_too(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "FRESH", 0.0)
    lost = put(store, "task_dataset", PREFIX, {"n.json": 2}, {}, work=tmp_path / "work")
    assert removal.claim_removal(store, lost, "nothing needed it", time.time() + 1)
    removal.finish_removal(store, lost)
    copied(store, other, tmp_path)
    with pytest.raises(UserError, match="removed by retention"):
        verify_artifact(other, lost, tmp_path / "cache")
    again = put(store, "task_dataset", PREFIX, {"n.json": 2}, {}, work=tmp_path / "work")
    assert again.generation == 2
    copied(store, other, tmp_path)
    verify_artifact(other, again, tmp_path / "cache")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test makes is young."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10 * removal.DAY)


def told_of(store: Store, tmp_path: Path) -> Artifact:
    """A data set with evidence that outlives it."""

    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "train.parquet").write_text("rows")
        for name in ("rows.parquet", "log.txt"):
            (attempt.evidence / name).write_text(name)
        return {}

    recipe = Recipe("task_dataset", PREFIX, spec={"told": 1})
    return make_artifact(store, tmp_path / "work", recipe, build)


def let_go(store: Store, artifact: Artifact) -> None:
    assert removal.claim_removal(store, artifact, "retention", time.time() - removal.DAY)
    removal.finish_removal(store, artifact)


def tombstones(store: Store, artifact: Artifact) -> list[Removed]:
    found = [one for one in generations(store, artifact.place) if isinstance(one, Removed)]
    for stone in found:
        removal.check_tombstone(store, stone)
    return found


def test_what_outlived_a_removal_comes_too_and_its_claim(
    store: Store, target: Store, tmp_path: Path, later: None
) -> None:
    lost = told_of(store, tmp_path)
    let_go(store, lost)
    copied(store, target, tmp_path)
    kept = f"{lost.path}/evidence/rows.parquet"
    assert set(target.files_below(lost.path)) == {"evidence/rows.parquet"}
    assert target.read(kept) == store.read(kept)
    assert tombstones(target, lost) == tombstones(store, lost)
    assert files(target) == files(store)
    target.remove([kept])  # as where an earlier copy did not bring it
    assert [one.path for one in copied(store, target, tmp_path) if one.bytes] == [lost.place.path]
    assert {one.how for one in copied(store, target, tmp_path)} == {"there"}
    assert files(target) == files(store)


def test_what_outlived_a_removal_is_held_against_its_manifest(
    store: Store, other: Store, tmp_path: Path, later: None
) -> None:
    lost = told_of(store, tmp_path)
    let_go(store, lost)
    Path(store.path(f"{lost.path}/evidence/rows.parquet")).write_text("other bytes!")
    with pytest.raises(UserError, match=r"rows\.parquet: has other bytes"):
        copied(store, other, tmp_path)
    assert list(generations(other, lost.place)) == []


def test_what_the_targets_retention_removed_is_named_and_not_brought_back(
    store: Store, other: Store, tmp_path: Path, later: None
) -> None:
    lost = told_of(store, tmp_path)
    copied(store, other, tmp_path)
    let_go(other, lost)
    before = files(other)
    assert {one.path for one in copied(store, other, tmp_path) if one.how == "removed"} == {lost.place.path}
    assert files(other) == before
    again = told_of(other, tmp_path)
    assert {one.path for one in copied(store, other, tmp_path) if one.how == "left"} == {lost.place.path}
    assert find_artifact(other, lost.place) == replace(again, reused=True)


def test_what_was_removed_and_made_again_takes_the_place_of_what_stands_in_the_target(
    store: Store, other: Store, tmp_path: Path, later: None
) -> None:
    lost = told_of(store, tmp_path)
    copied(store, other, tmp_path)
    let_go(store, lost)
    copied(store, other, tmp_path)
    assert find_artifact(other, lost.place) is not None  # until something comes in its place
    again = told_of(store, tmp_path)
    copied(store, other, tmp_path)
    standing = find_artifact(other, lost.place)
    assert standing is not None
    assert (standing.generation, standing.manifest) == (2, again.manifest)
    verify_artifact(other, standing, tmp_path / "cache")
    assert [stone.artifact.manifest for stone in tombstones(other, lost)] == [lost.manifest]
    assert set(other.files_below(lost.path)) == {"evidence/rows.parquet"}
    assert {one.how for one in copied(store, other, tmp_path)} == {"there"}


def test_what_was_removed_made_again_and_removed_stays_in_the_target_that_has_the_first(
    store: Store, other: Store, tmp_path: Path, later: None
) -> None:
    lost = told_of(store, tmp_path)
    copied(store, other, tmp_path)
    let_go(store, lost)
    let_go(store, told_of(store, tmp_path))
    copied(store, other, tmp_path)
    verify_artifact(other, lost, tmp_path / "cache")
    let_go(other, lost)
    copied(store, other, tmp_path)
    made = [stone.artifact.manifest for stone in tombstones(store, lost)]
    assert [stone.artifact.manifest for stone in tombstones(other, lost)] == made
    assert len(made) == 2


def test_what_is_in_use_in_the_target_is_not_taken_for_what_was_made_again(
    store: Store, other: Store, tmp_path: Path, later: None
) -> None:
    lost = told_of(store, tmp_path)
    copied(store, other, tmp_path)
    let_go(store, lost)
    told_of(store, tmp_path)
    assert removal.keep(other, lost)
    with pytest.raises(UserError, match=r"made again in .*store, while the first one is in use here"):
        copied(store, other, tmp_path)
    verify_artifact(other, lost, tmp_path / "cache")


def test_what_a_release_of_the_target_needs_is_not_taken_for_what_was_made_again(
    store: Store, other: Store, tmp_path: Path, later: None
) -> None:
    copied(store, other, tmp_path)
    export = export_of(store, PREFIX, 1, tmp_path / "cache")
    let_go(store, export)
    inputs = export.inputs
    again = put(store, "model_export", PREFIX, adapter(1), inputs, work=tmp_path / "work")
    assert again.generation == 2
    with pytest.raises(UserError, match=r"made again in .*store, while the first one is in use here"):
        copied(store, other, tmp_path)
    assert export_of(other, PREFIX, 1, tmp_path / "cache").manifest == export.manifest
    verify_artifact(other, export, tmp_path / "cache")


def test_what_is_on_legal_hold_in_the_target_is_not_taken_for_what_was_made_again(
    store: Store, other: Store, tmp_path: Path, later: None
) -> None:
    lost = told_of(store, tmp_path)
    copied(store, other, tmp_path)
    let_go(store, lost)
    told_of(store, tmp_path)
    with pytest.raises(UserError, match=r"made again in .*store, while the first one is in use here"):
        list(copy_store(store, other, tmp_path / "drafts", rules(hold=True)))
    verify_artifact(other, lost, tmp_path / "cache")


def test_an_attempt_that_nobody_committed_is_not_said_to_be_there(
    store: Store, other: Store, tmp_path: Path
) -> None:
    attempt = begin_attempt(store, Place(PREFIX, "training_plan", "a" * 64), tmp_path)
    (attempt.payload / "plan.json").write_text("{}")
    assert attempt.place.path not in {one.path for one in copied(store, other, tmp_path)}
    assert other.files_below(attempt.place.path) == {}


def test_what_is_no_part_of_a_store_stays_behind(store: Store, other: Store, tmp_path: Path) -> None:
    for name in (f"{PREFIX}/heads/.draft.json.0", "writer.json", "probes/x"):
        (Path(store.root) / name).parent.mkdir(exist_ok=True)
        (Path(store.root) / name).write_text("{}")
    copied(store, other, tmp_path)
    assert other.names(f"{PREFIX}/heads") == store.names(f"{PREFIX}/heads")
    assert not any(
        other.exists(name) for name in ("writer.json", "probes/x", f"{PREFIX}/heads/.draft.json.0")
    )


def test_a_link_in_the_source_is_refused(store: Store, other: Store, tmp_path: Path) -> None:
    (keyed, *_) = [k for k in contents_of(store).keyed.values() if k.place.stage == "model_export"]
    assert keyed.artifact is not None
    file = Path(store.path(f"{keyed.artifact.path}/payload/adapter_model.safetensors"))
    os.replace(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="a link"):
        copied(store, other, tmp_path)


def test_a_place_without_a_store_is_one_message(other: Store, store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is there"):
        copied(other, store, tmp_path)


def test_a_damaged_log_copies_nothing(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.remove([f"{PREFIX}/releases/000001.json"])

    def refuse(*given: object) -> NoReturn:
        raise AssertionError("copied")

    monkeypatch.setattr(Store, "upload", refuse)
    with pytest.raises(UserError, match=r"000001\.json: this entry of a release log is missing"):
        copied(store, other, tmp_path)
