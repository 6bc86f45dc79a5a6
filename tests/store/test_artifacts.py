import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance.manifest import PREDICATE, STATEMENT
from ft_dagster.store import Attempt, Place, Store, find_artifact, read_head, verify_artifact, write_head
from ft_dagster.store.make import Recipe, host_lock, make_artifact
from tests.present import present

RECIPE = Recipe("task_dataset", "tenants/acme/support", {"sources": "a" * 64}, {"data": 1}, "acme.support")


def builder(content: str = "x", evidence: str = "log") -> Callable[[Attempt], dict[str, Any]]:
    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "sub").mkdir()
        (attempt.payload / "sub" / "rows.txt").write_text(content)
        (attempt.evidence / "log.txt").write_text(evidence)
        return {"rows": 1}

    return build


def refuse_to_build(attempt: Attempt) -> NoReturn:
    raise AssertionError("built again")


def test_an_artifact_is_found_again_by_its_inputs_and_not_built_twice(
    any_store: Store, tmp_path: Path
) -> None:
    first = make_artifact(any_store, tmp_path, RECIPE, builder())
    second = make_artifact(any_store, tmp_path, RECIPE, refuse_to_build)
    assert (first.reused, second.reused) == (False, True)
    assert first.digest == second.digest
    assert second.figures == {"rows": 1}


def test_who_waits_for_another_that_builds_the_same_is_told(any_store: Store, tmp_path: Path) -> None:
    told = Event()
    with ThreadPoolExecutor(1) as pool, host_lock(tmp_path, RECIPE.place.path):
        made = pool.submit(make_artifact, any_store, tmp_path, RECIPE, builder(), waits=told.set)
        assert told.wait(60)
        assert not made.done()
    assert made.result(60).figures == {"rows": 1}


def test_its_files_come_back_whole(any_store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(any_store, tmp_path, RECIPE, builder("hello"))
    folder = artifact.folder(any_store, tmp_path / "cache")
    assert (folder / "payload" / "sub" / "rows.txt").read_text() == "hello"
    assert (folder / "evidence" / "log.txt").read_text() == "log"
    verify_artifact(any_store, artifact, tmp_path / "cache")


def test_the_digest_covers_the_payload_alone(any_store: Store, tmp_path: Path) -> None:
    one = make_artifact(any_store, tmp_path, RECIPE, builder("x", evidence="Monday"))
    other = make_artifact(
        any_store, tmp_path, Recipe("task_dataset", "shared", spec={"b": 2}), builder("x", "Tuesday")
    )
    third = make_artifact(any_store, tmp_path, Recipe("task_dataset", "shared", spec={"b": 3}), builder("y"))
    assert one.digest == other.digest
    assert one.digest != third.digest


def test_a_build_that_fails_leaves_nothing(any_store: Store, tmp_path: Path) -> None:
    def fail(attempt: Attempt) -> NoReturn:
        (attempt.payload / "half").write_text("half")
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        make_artifact(any_store, tmp_path, RECIPE, fail)
    assert find_artifact(any_store, RECIPE.place) is None
    assert any_store.names(RECIPE.place.path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_message_and_leaves_nothing(any_store: Store, tmp_path: Path, number: int) -> None:
    def fill(attempt: Attempt) -> NoReturn:
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match="disk is full"):
        make_artifact(any_store, tmp_path, RECIPE, fill)
    assert find_artifact(any_store, RECIPE.place) is None


def test_the_manifest_is_an_in_toto_statement_over_the_payload(any_store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(any_store, tmp_path, RECIPE, builder())
    statement = any_store.read_json(RECIPE.place.manifest)
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT, PREDICATE)
    assert [s["name"] for s in statement["subject"]] == ["sub/rows.txt"]
    predicate = statement["predicate"]
    assert predicate["inputs"] == RECIPE.inputs
    assert predicate["digest"] == artifact.digest
    assert any_store.exists(f"shared/code/{predicate['code']['sha256']}.tar.gz")


def test_a_second_content_for_one_key_is_a_divergence_and_the_first_stands(
    any_store: Store, tmp_path: Path
) -> None:
    first = make_artifact(any_store, tmp_path, RECIPE, builder("first"))
    statement = any_store.read_json(RECIPE.place.manifest)
    any_store.fs.rm(any_store.path(RECIPE.place.manifest))

    def race(attempt: Attempt) -> dict[str, Any]:
        any_store.write_json(RECIPE.place.manifest, statement)  # another host commits meanwhile
        return builder("second")(attempt)

    late = make_artifact(any_store, tmp_path, RECIPE, race)
    assert late.digest == first.digest
    (name,) = any_store.names(f"{RECIPE.place.path}/divergences")
    assert (
        any_store.read_json(f"{RECIPE.place.path}/divergences/{name}")["predicate"]["digest"] != first.digest
    )


@pytest.mark.parametrize("file", ["payload/sub/rows.txt", "evidence/log.txt"])
def test_changed_bytes_do_not_verify(store: Store, tmp_path: Path, file: str) -> None:
    artifact = make_artifact(store, tmp_path, RECIPE, builder("good", evidence="true"))
    (artifact.folder(store, tmp_path) / file).write_text("evil")
    with pytest.raises(UserError, match="other bytes"):
        verify_artifact(store, artifact, tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_missing_or_short_file_is_refused_on_reading(store: Store, tmp_path: Path, damage: str) -> None:
    artifact = make_artifact(store, tmp_path, RECIPE, builder("good"))
    file = present(store.local(artifact.path)) / "payload" / "sub" / "rows.txt"
    file.write_text("") if damage == "truncate" else file.unlink()
    with pytest.raises(UserError, match=r"rows\.txt"):
        artifact.folder(store, tmp_path)


def test_a_manifest_of_a_newer_version_is_refused(any_store: Store, tmp_path: Path) -> None:
    make_artifact(any_store, tmp_path, RECIPE, builder())
    statement = any_store.read_json(RECIPE.place.manifest)
    statement["predicate"]["schema_version"] = 99
    any_store.write_json(RECIPE.place.manifest, statement)
    with pytest.raises(UserError, match="newer ft-dagster"):
        find_artifact(any_store, RECIPE.place)


def test_a_head_points_at_the_newest_artifact_of_a_stage(any_store: Store, tmp_path: Path) -> None:
    assert read_head(any_store, RECIPE.prefix, "task_dataset") is None
    first = make_artifact(any_store, tmp_path, RECIPE, builder("1"))
    second = make_artifact(
        any_store, tmp_path, Recipe("task_dataset", RECIPE.prefix, spec={"v": 2}), builder("2")
    )
    for artifact in (first, second):
        write_head(any_store, RECIPE.prefix, artifact, run_id="r")
    assert present(read_head(any_store, RECIPE.prefix, "task_dataset")).digest == second.digest


@pytest.mark.slow
def test_two_processes_of_a_host_build_a_key_once(store: Store, tmp_path: Path) -> None:
    program = """
import json, sys, time
from pathlib import Path
from ft_dagster.store import Store
from ft_dagster.store.make import Recipe, make_artifact
work = Path(sys.argv[2])
def build(attempt):
    time.sleep(0.5)
    (attempt.payload / "x").write_text("x")
    return {}
made = make_artifact(Store(sys.argv[1]), work, Recipe("task_dataset", "shared", spec={"race": 1}), build)
print(json.dumps(made.reused))
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, store.url, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert sorted(json.loads(p.communicate(timeout=60)[0]) for p in both) == [False, True]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "", "a/../../x"])
def test_a_path_outside_the_store_is_refused(store: Store, path: str) -> None:
    with pytest.raises(ValueError, match="inside the store"):
        store.read(path)


def test_a_place_keeps_tenants_apart() -> None:
    assert Place("tenants/acme/support", "evaluation", "k").path == "tenants/acme/support/evaluation/k"


def test_a_store_that_is_copied_still_reads(store: Store, tmp_path: Path) -> None:
    artifact = make_artifact(store, tmp_path, RECIPE, builder("moved"))
    copy = Store(str(shutil.copytree(store.root, tmp_path / "copy")))
    found = present(find_artifact(copy, RECIPE.place))
    verify_artifact(copy, found, tmp_path)
    assert found.digest == artifact.digest
