"""The release log as files: entries that were changed, taken out, or written by an older version."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.log import mark_newest, read_log, recalled_log
from ft_dagster.lineage.release import (
    history,
    production,
    promote,
    rollback,
)
from ft_dagster.store import Store
from ft_dagster.store.blobs import as_stored
from tests.lineage.releases import (
    GATES,
    PREFIX,
    WEIGHTS,
    judged,
    put,
    released,
    served,
    why,
)
from tests.s3_server import serve_s3

HEAD_FILE = f"{PREFIX}/releases/head.json"
FIRST = {  # as 0.1 wrote it: served at once, without an id
    "schema_version": 1, "action": "release", "variant": "acme.support", "export": "e" * 64,
    "export_key": "key", "format": "adapter", "weights": WEIGHTS, "evaluation": "f" * 64, "verdict": "d" * 64,
    "gates": GATES, "run_id": None, "by": "ann", "reason": "materialized", "at": "2025-01-01T00:00:00+00:00",
    "version": 1,
}  # fmt: skip


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work there."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_a_number_or_a_count_far_away_is_named_and_no_loop(store: Store) -> None:
    released(store, "one")
    far = f"{PREFIX}/releases/99999999999999999.json"
    store.write(far, b"{}")
    assert read_log(store, PREFIX).uncounted == (store.uri(far),)
    store.write_json(HEAD_FILE, {**store.read_json(HEAD_FILE), "entries": 10**17})
    with pytest.raises(UserError, match=r"000002\.json: this entry of a release log is missing"):
        read_log(store, PREFIX)
    Path(store.root, HEAD_FILE).unlink()
    with pytest.raises(UserError, match="missing"):
        read_log(store, PREFIX)


def test_a_log_of_the_first_schema_is_still_read_and_goes_on(store: Store) -> None:
    store.write_json(f"{PREFIX}/releases/000001.json", FIRST)
    (first,) = history(store, PREFIX)
    added = ("entry", "previous", "export_manifest", "evaluation_manifest", "certificate")
    assert first.to_json() == {**FIRST, "production": 1, **dict.fromkeys(added)}
    assert served(store) == 1

    released(store, "one")
    assert rollback(store, PREFIX, why("worse answers")).production == 1


@pytest.mark.parametrize("field", sorted(FIRST.keys() - {"schema_version"}))
def test_an_entry_that_lacks_a_field_is_named_and_not_half_read(store: Store, field: str) -> None:
    content = {name: value for name, value in FIRST.items() if name != field}
    store.write_json(f"{PREFIX}/releases/000001.json", content)
    with pytest.raises(UserError, match=r"000001\.json.*not an entry of a release log"):
        history(store, PREFIX)


def test_each_kind_of_entry_is_read_as_it_was_written(store: Store) -> None:
    made = released(store, "one", "two")
    made.append(rollback(store, PREFIX, why("worse answers", "ann")))
    made.append(promote(store, PREFIX, 2, why("the questions were wrong", "bob"), force=True))

    assert history(store, PREFIX) == made
    stored = [store.read_json(f"{PREFIX}/releases/00000{number}.json") for number in range(1, 5)]
    assert [entry.to_json() for entry in made] == stored
    release = {"verdict", "gates", "run_id", "export_manifest", "evaluation_manifest", "certificate"}
    own = [entry.keys() & {*release, "forced", "from_version"} for entry in stored]
    assert own == [release, release, {"from_version"}, {"forced"}]


def edited(store: Store, number: int, **changes: Any) -> None:
    path = f"{PREFIX}/releases/{number:06d}.json"
    store.write_json(path, {**store.read_json(path), **changes})


def test_an_entry_that_was_changed_is_named(store: Store) -> None:
    released(store, "one", "two", "three")
    edited(store, 1, reason="approved by everybody")
    with pytest.raises(UserError, match=r"000002\.json: entry 1 of this release log is not what entry 2"):
        history(store, PREFIX)


def test_an_entry_that_was_taken_out_is_named(store: Store) -> None:
    released(store, "one", "two", "three")
    store.fs.rm(store.path(f"{PREFIX}/releases/000002.json"))
    with pytest.raises(UserError, match=r"000002\.json: this entry of a release log is missing"):
        history(store, PREFIX)


def test_a_rollback_that_was_taken_out_is_named(store: Store) -> None:
    released(store, "one", "two")
    rollback(store, PREFIX, why("worse answers"))
    store.fs.rm(store.path(f"{PREFIX}/releases/000003.json"))
    with pytest.raises(UserError, match=r"000003\.json: this entry of a release log is missing"):
        production(store, PREFIX)


def test_a_last_entry_that_was_changed_is_named(store: Store) -> None:
    released(store, "one", "two")
    edited(store, 2, reason="approved by everybody")
    with pytest.raises(
        UserError, match=r"000002\.json: this entry of a release log is not the one that head"
    ):
        production(store, PREFIX)


def without_its_head(store: Store, *contents: str) -> None:
    """Released, but for the newest entry's head: as a killed writer leaves it, or who puts one there."""
    *counted, last = contents
    released(store, *counted)
    before = store.read_each([HEAD_FILE])[0]
    released(store, last)
    store.remove([HEAD_FILE]) if before is None else store.write(HEAD_FILE, before)


@pytest.mark.parametrize("contents", [("one", "two"), ("one",)])
def test_a_last_entry_put_into_the_log_without_its_head_does_not_count_and_is_named(
    store: Store, contents: tuple[str, ...]
) -> None:
    without_its_head(store, *contents)
    number = len(contents)
    counted = list(range(1, number))
    assert [entry.version for entry in history(store, PREFIX)] == counted
    assert [entry.version for entry in recalled_log(store, PREFIX).entries] == counted
    log = read_log(store, PREFIX)
    assert [entry.version for entry in log.entries] == counted
    assert log.uncounted == (store.uri(f"{PREFIX}/releases/00000{number}.json"),)
    assert served(store) == (counted[-1] if counted else None)


def test_who_does_what_a_killed_writer_did_has_it_counted(store: Store, no_waiting: None) -> None:
    without_its_head(store, "one", "two")
    left = store.read(f"{PREFIX}/releases/000002.json")
    (again,) = released(store, "two")
    assert (again.version, served(store)) == (2, 2)
    assert store.read(f"{PREFIX}/releases/000002.json") == left
    released(store, "three")
    assert [entry.version for entry in history(store, PREFIX)] == [1, 2, 3]


def test_what_was_put_there_is_named_to_who_would_write_something_else(
    store: Store, no_waiting: None
) -> None:
    without_its_head(store, "one", "two")
    said = r"000002\.json: an entry \(release of version 2 by ann\) without its head, so that it does not"
    for content, by in (("three", "ann"), ("two", "eve")):
        with pytest.raises(UserError, match=said):
            released(store, content, by=by)
    assert [entry.version for entry in history(store, PREFIX)] == [1]


def test_a_log_of_several_entries_whose_head_is_gone_is_refused(store: Store) -> None:
    released(store, "one", "two")
    store.remove([HEAD_FILE])
    with pytest.raises(UserError, match=r"head\.json of this release log is missing"):
        history(store, PREFIX)


def test_who_wrote_an_entry_moves_no_head_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer was so slow that others had it counted, and went on."""
    create = Store.create_exclusively

    def slowly(self: Store, path: str, content: bytes) -> bool:
        made = create(self, path, content)
        if not path.endswith("releases/000001.json"):
            return made
        monkeypatch.setattr(Store, "create_exclusively", create)
        mark_newest(self, PREFIX, 1, content)
        released(self, "two")
        return made

    monkeypatch.setattr(Store, "create_exclusively", slowly)
    released(store, "one")
    assert [entry.version for entry in history(store, PREFIX)] == [1, 2]


@pytest.mark.parametrize("content", ["{", "[]", '{"entries": "x", "sha256": ""}', "{}"])
def test_a_head_that_is_none_is_named(store: Store, content: str) -> None:
    released(store, "one")
    store.write(f"{PREFIX}/releases/head.json", content.encode())
    with pytest.raises(UserError, match=r"head\.json: not the head of a release log"):
        history(store, PREFIX)


def test_an_entry_that_was_taken_out_and_the_rest_numbered_anew_is_noticed(store: Store) -> None:
    released(store, "one", "two", "three")
    folder = f"{PREFIX}/releases"
    store.write(f"{folder}/000002.json", store.read(f"{folder}/000003.json"))
    store.fs.rm(store.path(f"{folder}/000003.json"))
    with pytest.raises(UserError, match="entry 1 of this release log is not what entry 2 was written after"):
        history(store, PREFIX)


def test_older_entries_are_held_by_the_first_one_that_is_chained(store: Store) -> None:
    for number in (1, 2):
        store.write_json(f"{PREFIX}/releases/00000{number}.json", {**FIRST, "version": number})
    released(store, "one")
    assert [entry.version for entry in history(store, PREFIX)] == [1, 2, 3]
    edited(store, 1, weights="d" * 64)
    with pytest.raises(
        UserError, match=r"000003\.json: one of the entries 1 to 2 of this release log is not"
    ):
        history(store, PREFIX)


def test_an_entry_of_an_older_schema_after_a_chained_one_is_refused(store: Store) -> None:
    released(store, "one")
    content = as_stored({**FIRST, "version": 2})
    store.write(f"{PREFIX}/releases/000002.json", content)
    mark_newest(store, PREFIX, 2, content)
    with pytest.raises(UserError, match="names none before it"):
        history(store, PREFIX)


@pytest.mark.parametrize("changes", [{"production": 7}, {"version": 1}])
def test_a_last_entry_about_a_version_that_cannot_be_is_refused(
    store: Store, changes: dict[str, Any]
) -> None:
    released(store, "one", "two")
    edited(store, 2, **changes)
    with pytest.raises(UserError, match=r"000002\.json: an entry about a version that it cannot be about"):
        production(store, PREFIX)


def test_a_store_that_lists_nothing_ends_with_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    given = judged(store, "two")
    released(store, "one")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(store, "names", lambda folder: [])
    assert put(store, given).version == 2  # the head says what is there
    store.fs.rm(store.path(f"{PREFIX}/releases/head.json"))
    with pytest.raises(UserError, match=r"000001\.json: an entry .* without its head"):
        put(store, judged(store, "three"))


@pytest.mark.slow
def test_the_log_is_the_same_on_s3(tmp_path: Path) -> None:
    with serve_s3(tmp_path / "s3") as server:
        remote = Store(f"s3://{server.bucket}/store", server.options)
        given = [judged(remote, content) for content in ("one", "two")]
        first, second = (put(remote, g) for g in given)

        assert put(remote, given[1]) == second
        assert history(remote, PREFIX) == [first, second]
        assert [first.version, second.version] == [1, 2]


def test_what_went_into_production_since_it_was_held_against_it_is_not_passed_over(store: Store) -> None:
    released(store, "one")
    seen = history(store, PREFIX)
    released(store, "two")  # by another process, while "three" was held against version 1
    with pytest.raises(UserError, match="another version went into production meanwhile") as refused:
        put(store, replace(judged(store, "three"), held_against=seen))
    assert refused.value.value == 2
    assert put(store, replace(judged(store, "three"), held_against=history(store, PREFIX))).version == 3
    with pytest.raises(UserError, match="another version went into production meanwhile"):
        put(store, replace(judged(store, "one"), held_against=seen[:0]))
    assert served(store) == 3


def test_the_log_of_another_variant_is_refused(store: Store) -> None:
    released(store, "one")
    shutil.copytree(store.path(f"{PREFIX}/releases"), store.path("tenants/globex/support/releases"))
    with pytest.raises(UserError, match=r"entry of another variant's release log \(acme\.support\)"):
        history(store, "tenants/globex/support")


@pytest.mark.parametrize("entries", [-1, 0, True, 1e999, "1"])
def test_a_head_of_no_number_is_named(store: Store, entries: object) -> None:
    released(store, "one")
    path = f"{PREFIX}/releases/head.json"
    content = json.dumps({**store.read_json(path), "entries": entries})
    store.write(path, content.encode())
    with pytest.raises(UserError, match="not the head of a release log"):
        history(store, PREFIX)
