"""A record that is copied from a table is found: a line alone, with the names of its columns, a file."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.answers import RecordAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.proofs.proof_check import check, proof_readings
from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import TRAINED, record
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.data.rows import dataset, dataset_figures
from ft_dagster.errors import UserError
from ft_dagster.store import Artifact
from tests.audit.histories import History, question

HEADER = ["id", "answer", "question"]
FIELDS = {"prompt": "question", "completion": "answer"}


def cells(number: int) -> list[str]:
    """One with a delimiter, quotes and a break of the line inside a cell."""
    return [str(number), f'It is "here", at {number},\nin the south.', f"Where is balcony {number}?"]


def line(row: Sequence[str], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerow(row)
    return out.getvalue()


def table(made: History, rows: Sequence[Sequence[str]], variant: str = "acme.one", **source: Any) -> Artifact:
    """A data set of a table, whose first row names its columns."""
    path = source.setdefault("path", "faq.csv")
    delimiter = "\t" if path.endswith(".tsv") else ","
    (made.folder / path).write_text("\ufeff" + "".join(line(row, delimiter) for row in rows), "utf-8")
    return made.dataset(variant, [{"cells": row} for row in rows], sources=[{"fields": FIELDS, **source}])


def unnoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are from now on as those that noted no columns."""
    monkeypatch.setattr(dataset, "replace", lambda figures, columns: figures)
    whole = dataset_figures.DatasetFigures.to_json
    monkeypatch.setattr(
        dataset_figures.DatasetFigures,
        "to_json",
        lambda figures: {name: value for name, value in whole(figures).items() if name != "columns"},
    )


@pytest.fixture
def made(tmp_path: Path) -> History:
    return History(tmp_path / "project")


def asked(audit: Audit, given: str) -> RecordAnswer:
    wanted = parse_record(given, audit.readings())
    return RecordAnswer(**{**vars(record(audit, wanted)), "search": look_through(audit, wanted).search})


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("path", ["faq.csv", "faq.tsv"])
def test_a_line_is_found_as_the_row_that_it_is(
    made: History, monkeypatch: pytest.MonkeyPatch, path: str, noted: bool
) -> None:
    if not noted:
        unnoted(monkeypatch)
    rows = [HEADER, *map(cells, range(20))]
    made.model("acme.one", made.mixture("acme.one", table(made, rows, path=path)), made.base(), times=2)
    audit, delimiter = made.audit(), "\t" if path == "faq.tsv" else ","
    for row in rows[1:]:
        given = line(row, delimiter)
        for way in (given, given.rstrip("\r\n"), f"\ufeff{given}", f"{line(HEADER, delimiter)}{given}"):
            found = asked(audit, way)
            assert found.equal
            assert found.found[0].stage == "task_dataset"
    assert any(one.how == TRAINED for row in rows[1:] for one in asked(audit, line(row, delimiter)).models)
    said = sought(asked(audit, line(cells(3), delimiter)))
    assert f", read as a line of {'id, answer, question' if noted else '-, completion, prompt'};" in said


def test_a_line_is_found_in_each_order_that_its_columns_ever_had(made: History) -> None:
    rows = [HEADER, *map(cells, range(20))]
    first = table(made, rows)
    second = table(made, [row[::-1] for row in rows], "acme.two")
    audit = made.audit()
    for row in (cells(3), cells(3)[::-1]):
        assert {one.digest for one in asked(audit, line(row)).found} == {first.digest, second.digest}


@pytest.mark.parametrize("noted", [True, False])
def test_a_line_that_no_table_has_was_never_seen(
    made: History, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    if not noted:
        unnoted(monkeypatch)
    table(made, [HEADER, *map(cells, range(20))])
    audit = made.audit()
    found = asked(audit, line(cells(99)))
    assert found.seen is False
    ways = "id, answer, question" if noted else "6 orders of columns"
    said = f"compared, as a text and as a line of 3 cells (read by {ways}), with"
    assert sought(found).startswith(f"never seen: {said}")
    assert asked(audit, "no line, of any table, at all").seen is False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (line(cells(3)).splitlines()[0], "its quotes do not close, so that it may be a part of a row"),
        (line(cells(98)) + line(cells(99)), "its 2 lines may be as many rows: give one"),
        (json.dumps({"question": "a", "answer": "b"})[:-4], "it begins as JSON and is none"),
        (json.dumps([{"question": "a", "answer": "b"}] * 2), "its 2 objects may be as many rows: give one"),
        (",".join(map(str, range(40))), "nothing says which of its 40 cells a source of format"),
    ],
)
def test_what_may_be_a_row_in_a_further_way_is_not_called_never_seen(
    made: History, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    unnoted(monkeypatch)
    dataset = table(made, [HEADER, *map(cells, range(20))])
    made.model("acme.one", made.mixture("acme.one", dataset), made.base())
    audit = made.audit()
    found = asked(audit, given)
    assert (found.equal, found.seen) == (None, None)
    assert f"no record equals this, and {said}" in sought(found)
    weights = audit.model("acme.one")
    wanted = parse_record(given, audit.readings(weights))
    with pytest.raises(UserError, match="nothing proves that it is absent"):
        prove(audit, wanted, weights)


@pytest.mark.parametrize("noted", [True, False])
def test_a_proof_of_a_line_is_checked_by_the_line(
    made: History, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    if not noted:
        unnoted(monkeypatch)
    rows = [HEADER, *map(cells, range(20))]
    made.model("acme.one", made.mixture("acme.one", table(made, rows)), made.base(), times=2)
    audit, file = made.audit(), made.folder / "proof.json"
    weights, kinds = audit.model("acme.one"), set[str]()
    for row in (*rows[1:], cells(99)):
        proof = prove(audit, parse_record(line(row), audit.readings(weights)), weights)
        file.write_text(json.dumps(proof), "utf-8")
        assert check(file, parse_record(line(row), proof_readings(file))).kind == proof["kind"]
        kinds.add(proof["kind"])
        with pytest.raises(UserError, match="another record"):
            check(file, parse_record(line(cells(100)), proof_readings(file)))
    assert kinds == {PRESENCE, ABSENCE}


def test_a_file_of_a_table_is_one_row_of_it(
    made: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(made, [HEADER, *map(cells, range(20))])
    audit, file = made.audit(), tmp_path / "asked.csv"
    for content in (line(cells(3)), line(HEADER) + line(cells(3)), line(HEADER[::-1]) + line(cells(3)[::-1])):
        file.write_text(f"\ufeff{content}", "utf-8")
        assert asked(audit, str(file)).equal
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
        assert asked(audit, "-").equal
    for content, said in (
        (line(cells(3)) + line(cells(4)), "2 rows, where one record is asked for"),
        (line(HEADER) + line(cells(3)) + line(cells(4)), "2 rows, where one record is asked for"),
    ):
        file.write_text(content, "utf-8")
        with pytest.raises(UserError, match=said):
            asked(audit, str(file))


@pytest.mark.parametrize("ending", ["parquet", "jsonl.gz", "json"])
def test_a_file_of_one_row_of_any_kind_is_that_row(made: History, tmp_path: Path, ending: str) -> None:
    import gzip

    import pyarrow as pa
    from pyarrow import parquet

    made.dataset("acme.one", [question(number) for number in range(20)])
    file, rows = tmp_path / f"asked.{ending}", [question(3)]
    for several in (rows, [*rows, question(4)]):
        if ending == "parquet":
            parquet.write_table(pa.Table.from_pylist(several), file)
        elif ending == "json":
            file.write_text(json.dumps(several), "utf-8")
        else:
            file.write_bytes(gzip.compress("\n".join(map(json.dumps, several)).encode()))
        if several == rows:
            assert asked(made.audit(), str(file)).equal
    if ending != "json":
        with pytest.raises(UserError, match="more than one row, where one record is asked for"):
            parse_record(str(file))


def test_numbers_of_a_row_as_json_are_what_the_cells_of_a_table_say(made: History) -> None:
    rows = [HEADER, *([str(n), f"{n}.50", f"What is the fare to place {n}?"] for n in range(20))]
    table(made, rows)
    given = '{"id": 3, "answer": 3.50, "question": "What is the fare to place 3?"}'
    assert asked(made.audit(), given).equal


def test_a_line_of_a_corpus_is_found_as_the_document_that_it_is(made: History) -> None:
    rows = [["id", "text"], *([str(n), f"Document {n}, of the town."] for n in range(20))]
    (made.folder / "town.csv").write_text("".join(map(line, rows)), "utf-8")
    corpus = made.corpus([], path="town.csv")
    assert {one.digest for one in asked(made.audit(), line(rows[4])).found} == {corpus.digest}
