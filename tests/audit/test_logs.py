"""A release log that is another than it was is answered as it is, and a check goes on to say so."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from ft_dagster.audit.audit import index_folder, open_audit
from ft_dagster.audit.index import follow
from ft_dagster.audit.index.index_file import FILE
from ft_dagster.audit.models import at
from ft_dagster.audit.records import record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.verify.verify import verify
from ft_dagster.errors import UserError
from ft_dagster.lineage.log import entry_path, read_log
from ft_dagster.records.record_keys import rotate
from ft_dagster.settings import Settings
from ft_dagster.store import Artifact
from tests.audit.histories import History, question, this_moment
from tests.audit.index_rows import as_schema
from tests.long import mostly_long

pytestmark = pytest.mark.slow
PREFIX = "tenants/acme/one"
RELEASES = f".ft_dagster/store/{PREFIX}/releases"


@pytest.fixture
def models(history: History) -> list[Artifact]:
    """Two more models of acme.one, which are not released."""
    dataset = history.dataset("acme.one", [question(number) for number in range(30)])
    mixture = history.mixture("acme.one", dataset)
    return [history.model("acme.one", mixture, history.base(), seed=seed) for seed in (1, 2)]


def in_production(history: History) -> set[str]:
    """The weights that acme.one serves, by each question that tells."""
    audit = history.audit()
    answers = [record(audit, parse_record(json.dumps(question(number)))) for number in range(30)]
    models = [each for answer in answers for each in answer.models if each.variant == "acme.one"]
    served = {each.weights for each in models if any(one.production for one in each.releases)}
    named = {audit.model("acme.one").digest, audit.model("acme.one@2").digest}
    found = served | named | {at(audit, "acme.one", this_moment()).model.weights}
    audit.index.close()
    return found


def problems(history: History, **options: object) -> tuple[str, ...]:
    audit = history.audit(**options)
    found = verify(audit).problems
    audit.index.close()
    return found


@pytest.mark.long
def test_a_log_that_was_restored_and_went_on_is_answered_as_it_is(
    history: History, models: list[Artifact], tmp_path: Path
) -> None:
    """By a check it is named until the index is made again."""
    log, backup, base = history.folder / RELEASES, tmp_path / "backup", history.base()
    shutil.copytree(log, backup)
    history.release("acme.one", models[0], base)
    assert in_production(history) == {models[0].digest}
    shutil.rmtree(log)
    shutil.copytree(backup, log)
    assert any("000002.json: this entry was taken out" in line for line in problems(history))
    history.release("acme.one", models[1], base)
    assert in_production(history) == {models[1].digest}
    for _ in range(2):
        [line] = problems(history)
        assert "000002.json: this entry of a release log is another than it was" in line
        assert "`ft-dagster audit index --again`" in line
    assert problems(history, tenant="globex") == ()
    rotate(history.settings.keys_folder, "acme")
    assert len(problems(history)) == 1
    assert problems(history, again=True) == problems(history) == ()


def replaced(history: History, models: list[Artifact], away: Path) -> None:
    """An entry that an audit saw is taken out of the log of acme.one."""
    log = history.folder / RELEASES
    shutil.copytree(log, away)
    history.release("acme.one", models[0], history.base())
    history.audit().index.close()
    shutil.rmtree(log)
    shutil.copytree(away, log)


@pytest.mark.parametrize("followed", [False, True])
def test_an_entry_that_was_taken_out_is_named_by_an_index_of_another_schema(
    history: History, models: list[Artifact], tmp_path: Path, followed: bool
) -> None:
    """`followed`: it was named before the upgrade."""
    replaced(history, models, tmp_path / "backup")
    before = problems(history) if followed else None
    with closing(sqlite3.connect(index_folder(history.settings) / FILE)) as older, older:
        older.execute("UPDATE meta SET value = '5' WHERE name = 'schema_version'")
        older.execute("DROP TABLE artifacts")
    [line] = problems(history)
    assert "000002.json: this entry was taken out" in line
    assert before in (None, (line,))
    assert problems(history, again=True) == ()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY])
def test_an_index_that_cannot_be_used_just_now_is_kept(
    history: History, models: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    replaced(history, models, tmp_path / "backup")

    def refuse(*_: object) -> None:
        error = sqlite3.OperationalError("not just now")
        error.sqlite_errorcode = code
        raise error

    for place in ("index.index_file._schema_of", "index.index.Index.owners"):
        with monkeypatch.context() as patch:
            patch.setattr(f"ft_dagster.audit.{place}", refuse)
            with pytest.raises(UserError, match="the index cannot be used: not just now"):
                history.audit()
    assert any("000002.json: this entry was taken out" in line for line in problems(history))


@pytest.mark.parametrize("schema", mostly_long([5, 8], [8]))
def test_an_upgrade_that_is_ended_in_the_middle_loses_no_entry(
    history: History, models: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: int
) -> None:
    """At each of its statements; an index of schema 8 is altered, one of schema 5 made again."""
    replaced(history, models, tmp_path / "backup")
    as_schema(history.settings, schema)
    for statements in count():
        if ended_upgrade(history.settings, statements):
            break
    assert statements > 3
    [line] = problems(history)
    assert "000002.json: this entry was taken out" in line


def ended_upgrade(settings: Settings, statements: int) -> bool:
    """Whether an index opens by so many statements that write; else it is ended as by a kill."""
    code = f"""
import os, sqlite3, sys
left = [{statements}]
def trace(statement):
    if statement.split()[0] in ("BEGIN", "ALTER", "CREATE", "DROP", "INSERT", "UPDATE", "COMMIT"):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
connect = sqlite3.connect
def traced(*given, **named):
    db = connect(*given, **named)
    db.set_trace_callback(trace)
    return db
sqlite3.connect = traced
from pathlib import Path
from ft_dagster.audit.index.index import Index
Index.open(Path({str(index_folder(settings))!r}), {settings.open_store().url!r}).close()
"""
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("gone", [RELEASES, f".ft_dagster/store/{PREFIX}"])
def test_a_log_that_is_gone_is_named_until_it_is_back(history: History, tmp_path: Path, gone: str) -> None:
    assert problems(history) == ()
    shutil.move(history.folder / gone, tmp_path / "away")
    assert any("000001.json: this entry was taken out" in line for line in problems(history))
    shutil.move(tmp_path / "away", history.folder / gone)
    assert problems(history) == ()


def test_a_log_that_names_nothing_before_its_entries_is_held_whole(old: Settings) -> None:
    """As entries were before schema 3."""
    assert verify(open_audit(old)).problems == ()
    store, prefix = old.open_store(), "tenants/acme/places"
    first = read_log(store, prefix).entries[0]
    store.write_json(entry_path(prefix, 1), replace(first, by="eve").to_json())
    audit = open_audit(old)
    assert audit.log[prefix][0].by == "eve"
    [line] = verify(audit).problems
    assert "000001.json: this entry of a release log is another than it was" in line


def test_a_log_that_did_not_move_is_not_read_again(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """To follow it takes its names and its newest entry."""
    before = history.audit().log

    def read(*_: object) -> None:
        raise AssertionError("a log was read")

    monkeypatch.setattr(follow, "read_log", read)
    assert history.audit().log == before


def test_what_the_index_alone_knows_goes_with_a_project_that_is_moved(
    history: History, tmp_path: Path
) -> None:
    """The store has another address then."""
    entry = next((history.folder / ".ft_dagster/store/tenants/acme/one/releases").glob("000001.json"))
    assert verify(history.audit()).holds
    since = history.audit().index.since()
    moved = History(history.folder.rename(tmp_path / "elsewhere"))
    assert verify(moved.audit()).holds
    (moved.folder / entry.relative_to(history.folder)).unlink()
    (moved.folder / entry.relative_to(history.folder)).with_name("head.json").unlink()
    audit = moved.audit()
    assert audit.index.since() == since
    assert any("taken out of this release log" in line for line in verify(audit).problems)


def test_an_index_of_another_store_is_not_taken_for_this_ones(history: History, tmp_path: Path) -> None:
    history.audit().index.close()
    other = History(tmp_path / "other")
    other.dataset("acme.one", [question(number) for number in range(9)])
    shutil.copytree(index_folder(history.settings), index_folder(other.settings))
    audit = other.audit()
    assert [each.place.stage for each in audit.index.all()] == ["task_dataset"]
    assert verify(audit).holds


def test_a_check_says_since_when_the_index_remembers(history: History) -> None:
    before = datetime.now(UTC).isoformat(timespec="seconds")
    found = verify(history.audit(again=True))
    assert before <= found.since <= datetime.now(UTC).isoformat(timespec="seconds")
