"""An index that is damaged, or that cannot be opened, ends no command in a traceback."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from typer.testing import CliRunner

from ft_dagster.audit import records
from ft_dagster.audit.audit import index_folder
from ft_dagster.audit.index.index_file import FILE
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.settings import Settings
from tests.audit.histories import History, question

pytestmark = pytest.mark.slow
ASK = ["record", json.dumps(question(3))]


def run(history: History, *words: str) -> int:
    """The exit code. Raises what the command does."""
    given = ["--project", str(history.folder), "audit", *words]
    return CliRunner().invoke(app, given, catch_exceptions=False).exit_code


def damage(settings: Settings) -> None:
    """A page of the artifacts that only a question reads."""
    file = index_folder(settings) / FILE
    with closing(sqlite3.connect(file)) as db:
        [[page]] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'artifacts'")
        [[size]] = db.execute("PRAGMA page_size")
    content = bytearray(file.read_bytes())
    content[(page - 1) * size : (page - 1) * size + 200] = b"\xff" * 200
    file.write_bytes(content)


@pytest.mark.parametrize("words", [["index"], ASK])
def test_a_damaged_page_is_mended_by_making_the_index_again(history: History, words: list[str]) -> None:
    history.audit().index.close()
    damage(history.settings)
    assert run(history, *words) == 0
    assert run(history, "verify", "--all") == 0


@pytest.mark.parametrize("words", [["index"], ASK])
@pytest.mark.parametrize(
    ("code", "said"),
    [(sqlite3.SQLITE_FULL, "cannot be used: not just now"), (sqlite3.SQLITE_CORRUPT, "damaged")],
)
def test_what_goes_wrong_in_a_second_try_is_said_in_one_line(
    history: History, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    errors = [sqlite3.DatabaseError("malformed"), sqlite3.OperationalError("not just now")]
    if code == sqlite3.SQLITE_CORRUPT:
        errors[1] = sqlite3.DatabaseError("malformed again")
    errors[1].sqlite_errorcode = code

    def refuse(*_: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(records, "checked", refuse)
    with pytest.raises(UserError, match=said):
        run(history, *words)


@pytest.mark.parametrize("words", [["index"], ["index", "--again"], ASK])
@pytest.mark.parametrize("name", [FILE, ""])
def test_what_is_no_file_in_its_place_is_said_in_one_line(
    history: History, words: list[str], name: str
) -> None:
    """A folder in place of the file, and a file in place of its folder."""
    place = index_folder(history.settings) / name
    (place.mkdir if name else lambda parents: place.write_text(""))(parents=True)
    with pytest.raises(UserError, match="the index cannot be opened") as refused:
        run(history, *words)
    assert str(refused.value.file).startswith(str(index_folder(history.settings)))
