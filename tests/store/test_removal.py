"""Removing an artifact and keeping it, of which one holds; and what becomes of who needs what was removed."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.row_choices import UsageBy
from ft_dagster.store import (
    Artifact,
    Attempt,
    Store,
    blobs,
    find_artifact,
    removal,
    verify_artifact,
    write_head,
)
from ft_dagster.store.artifacts import Removed, generations
from ft_dagster.store.contents import contents_of, usage
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.removal import DAY, check_tombstone, claim_removal, finish_removal, keep

PREFIX = "tenants/acme/support"
RECIPE = Recipe("task_dataset", PREFIX, spec={"data": 1})


def build(attempt: Attempt) -> dict[str, Any]:
    (attempt.payload / "sub").mkdir()
    (attempt.payload / "sub" / "rows.txt").write_text("rows")
    (attempt.evidence / "log.txt").write_text(attempt.name)
    return {"rows": 1}


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test makes is young."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 10 * DAY)


def removed(store: Store, artifact: Artifact) -> None:
    assert claim_removal(store, artifact, "nothing needed it", time.time() - DAY)
    finish_removal(store, artifact)


def test_the_files_go_and_the_manifest_stays(any_store: Store, tmp_path: Path, later: None) -> None:
    made = make_artifact(any_store, tmp_path, RECIPE, build)
    manifest = any_store.read(made.place.manifest)
    removed(any_store, made)
    assert find_artifact(any_store, made.place) is None
    assert any_store.files_below(made.path) == {}
    (stone,) = generations(any_store, made.place)
    assert isinstance(stone, Removed)
    assert (stone.artifact.digest, stone.artifact.manifest) == (made.digest, made.manifest)
    kept = json.loads(any_store.read(made.place.manifest))["manifest"]
    assert kept.encode() == stone.original == manifest
    assert hashlib.sha256(kept.encode()).hexdigest() == made.manifest


def test_who_needs_what_was_removed_is_told_when_and_why(
    any_store: Store, tmp_path: Path, later: None
) -> None:
    made = make_artifact(any_store, tmp_path, RECIPE, build)
    removed(any_store, made)
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time()))
    for use in (
        lambda: verify_artifact(any_store, made, tmp_path / "cache"),
        lambda: made.folder(any_store, tmp_path / "cache"),
    ):
        with pytest.raises(UserError, match=rf"removed by retention on {day} \(nothing needed it\)"):
            use()


@pytest.mark.slow
def test_what_was_removed_is_made_again_as_often_as_it_goes(
    any_store: Store, tmp_path: Path, later: None
) -> None:
    for generation in (1, 2, 3):
        made = make_artifact(any_store, tmp_path, RECIPE, build)
        assert (made.reused, made.generation) == (False, generation)
        verify_artifact(any_store, made, tmp_path / "cache")
        again = make_artifact(any_store, tmp_path, RECIPE, build)
        assert (again.reused, again.manifest) == (True, made.manifest)
        (keyed,) = contents_of(any_store).keyed.values()
        assert keyed.artifact == again
        assert [stone.artifact.generation for stone in keyed.removed] == list(range(1, generation))
        assert claim_removal(any_store, made, "", time.time() + DAY)
        finish_removal(any_store, made)


def test_what_was_kept_of_late_is_not_removed_and_later_it_is(
    store: Store, tmp_path: Path, later: None
) -> None:
    made = make_artifact(store, tmp_path, RECIPE, build)
    now = time.time()
    assert keep(store, made)
    assert not claim_removal(store, made, "", now - DAY)
    assert claim_removal(store, made, "", now + DAY)
    assert not keep(store, made)


def test_keeping_writes_nothing_of_what_is_young_or_was_kept_today(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_artifact(store, tmp_path, RECIPE, build)
    claims = f"{made.place.path}/claims/{made.predicate['attempt']}"
    assert keep(store, made)
    assert store.names(claims) == []
    now = time.time
    for days, written in ((2.0, 1), (2.1, 1), (3.0, 2)):
        monkeypatch.setattr(time, "time", lambda days=days: now() + days * DAY)
        assert keep(store, made)
        assert len(store.names(claims)) == written


@pytest.mark.parametrize("seed", range(10))
def test_of_keeping_and_removing_at_once_one_holds(
    store: Store, tmp_path: Path, seed: int, later: None
) -> None:
    made = make_artifact(store, tmp_path, RECIPE, build)
    before, draw, answers = time.time() - DAY, random.Random(seed), dict[str, list[bool]]()
    answers = {"keep": [], "remove": []}

    def ask(what: str, wait: float) -> None:
        time.sleep(wait)
        answers[what].append(keep(store, made) if what == "keep" else claim_removal(store, made, "", before))

    threads = [
        threading.Thread(target=ask, args=(what, draw.uniform(0, 0.003))) for what in ("keep", "remove") * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers["keep"])) == len(set(answers["remove"])) == 1
    assert answers["keep"][0] != answers["remove"][0]


def test_a_run_that_asks_for_what_is_being_removed_makes_it_again(
    store: Store, tmp_path: Path, later: None
) -> None:
    made = make_artifact(store, tmp_path, RECIPE, build)
    assert claim_removal(store, made, "", time.time())  # and then the command was killed
    again = make_artifact(store, tmp_path, RECIPE, build)
    assert (again.reused, again.generation) == (False, 2)
    finish_removal(store, made)  # by another command, later
    assert find_artifact(store, made.place) == make_artifact(store, tmp_path, RECIPE, build)
    verify_artifact(store, again, tmp_path / "cache")


def test_what_a_head_pointed_at_is_kept_when_it_moves_on(store: Store, tmp_path: Path, later: None) -> None:
    first = make_artifact(store, tmp_path, RECIPE, build)
    write_head(store, PREFIX, first, None)
    second = make_artifact(store, tmp_path, Recipe("task_dataset", PREFIX, spec={"data": 2}), build)
    write_head(store, PREFIX, second, None)
    assert not claim_removal(store, first, "", time.time() - DAY)


class Killed:
    """Ends the thread's work at the line of the store's code that comes after so many of them."""

    def __init__(self, lines: int) -> None:
        self.left = lines

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in {removal.__file__, blobs.__file__}:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


@pytest.mark.slow
def test_killed_at_any_line_it_is_whole_or_removed_and_can_be_made_again(
    tmp_path: Path, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ft_dagster.store.make.keep_source", lambda store: "c" * 64)
    lines, states, over = 1, set(), False
    while not over:
        store = Store(str(tmp_path / f"store-{lines}"))
        made = make_artifact(store, tmp_path, RECIPE, build)
        sys.settrace(Killed(lines))
        try:
            removed(store, made)
            over = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        standing = find_artifact(store, made.place)
        states.add(standing is None)
        if standing is not None:
            verify_artifact(store, standing, tmp_path / "cache")
        again = make_artifact(store, tmp_path, RECIPE, build)
        verify_artifact(store, again, tmp_path / "cache")
        lines += 3
    assert states == {True, False}


@pytest.mark.parametrize("broken", ["{", "[]", '{"claim": "kept"}'])
def test_what_is_no_claim_is_one_message(store: Store, tmp_path: Path, later: None, broken: str) -> None:
    made = make_artifact(store, tmp_path, RECIPE, build)
    store.write(f"{made.place.path}/claims/{made.predicate['attempt']}/000001.json", broken.encode())
    with pytest.raises(UserError, match=r"000001\.json: not a claim on an artifact"):
        keep(store, made)


@pytest.mark.parametrize(
    "broken",
    [
        {"removed": {}},
        {"schema_version": 1, "removed": 1, "manifest": "{}"},
        {"schema_version": 1, "removed": {"at": "", "why": ""}, "manifest": "{"},
        {"schema_version": 1, "removed": {"at": "", "why": ""}, "manifest": "{}"},
        {"schema_version": 9, "removed": {"at": "", "why": ""}, "manifest": "{}"},
    ],
)
def test_what_is_no_tombstone_is_one_message(store: Store, tmp_path: Path, broken: Any) -> None:
    made = make_artifact(store, tmp_path, RECIPE, build)
    store.write_json(made.place.manifest, broken)
    with pytest.raises(UserError, match=r"manifest\.json"):
        find_artifact(store, made.place)


def test_a_tombstone_is_held_against_its_claim(store: Store, tmp_path: Path, later: None) -> None:
    made = make_artifact(store, tmp_path, RECIPE, build)
    said = {"at": "2030-01-01T00:00:00.000+00:00", "why": "nothing needed it"}
    manifest = store.read(made.place.manifest).decode()

    def forge() -> Removed:
        forged = {"schema_version": 1, "removed": said, "manifest": manifest}
        store.write_json(made.place.manifest, forged)
        (stone,) = generations(store, made.place)
        assert isinstance(stone, Removed)
        return stone

    with pytest.raises(UserError, match=r"manifest\.json: a tombstone of a removal that nobody claimed"):
        check_tombstone(store, forge())
    store.write(made.place.manifest, manifest.encode())
    removed(store, made)
    (true,) = generations(store, made.place)
    assert isinstance(true, Removed)
    check_tombstone(store, true)
    with pytest.raises(UserError, match="with another date or reason than its claim"):
        check_tombstone(store, forge())


def test_every_byte_of_what_was_removed_and_made_again_is_in_one_row(
    store: Store, tmp_path: Path, later: None
) -> None:
    removed(store, make_artifact(store, tmp_path, RECIPE, build))
    make_artifact(store, tmp_path, RECIPE, build)
    rows = usage(contents_of(store), UsageBy.TENANT)
    assert sum(row.bytes for row in rows) == sum(store.fs.size(path) for path in store.fs.find(store.root))
    assert {row.name: row.artifacts for row in rows} == {"acme": 1, "shared": 0}
