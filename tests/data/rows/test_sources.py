"""Rows stream from every format and place, and what is wrong with a source is said with its place."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.rows.sources import read_raw, read_rows
from ft_dagster.data.sources.locations import DeclaredAt, s3
from ft_dagster.data.sources.readers import LARGEST_LIST, LONGEST_LINE
from ft_dagster.errors import UserError
from ft_dagster.spec.data import SourceSpec, TenantSource

ROWS = [{"prompt": f"q{i}", "completion": f"a, {i}\nmore"} for i in range(3)]
ASKED = DeclaredAt("acme/support.yaml", "data.sources[0]")


def read(project: Path, path: str, **spec: Any) -> list[dict[str, Any]]:
    return [row.fields for row in read_raw(SourceSpec(path=path, **spec), project, ASKED)]


def refusal(project: Path, path: str, **spec: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        read(project, path, **spec)
    return caught.value


def as_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def as_arrow_file(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def as_arrow_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
WRITERS = {
    "rows.jsonl": lambda path: path.write_text(LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "lines.json": lambda path: path.write_text(LINES),
    "rows.csv": as_csv,
    "rows.tsv": lambda path: as_csv(path, "\t"),
    "rows.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "file.arrow": as_arrow_file,
    "stream.arrow": as_arrow_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(project: Path, name: str) -> None:
    WRITERS[name](project / name)
    assert read(project, name) == ROWS


def test_a_gzipped_csv_is_read(project: Path) -> None:
    as_csv(project / "rows.csv")
    (project / "rows.csv.gz").write_bytes(gzip.compress((project / "rows.csv").read_bytes()))
    assert read(project, "rows.csv.gz") == ROWS


def test_a_folder_is_read_in_order_of_name_without_hidden_and_other_files(project: Path, write: Any) -> None:
    write("data/b/2.jsonl", ROWS[1:])
    write("data/a.jsonl", ROWS[:1])
    write("data/.hidden.jsonl", ROWS)
    write("data/README.md", "not rows")
    assert read(project, "data") == ROWS


def test_a_glob_is_read_in_order_of_name(project: Path, write: Any) -> None:
    write("data/part-2.jsonl", ROWS[1:])
    write("data/part-1.jsonl", ROWS[:1])
    write("data/other.jsonl", ROWS)
    assert read(project, "data/part-*.jsonl") == ROWS


def test_a_path_with_glob_characters_that_exists_is_taken_as_it_is(project: Path, write: Any) -> None:
    write("rows[1].jsonl", ROWS)
    assert read(project, "rows[1].jsonl") == ROWS


def test_a_saved_data_set_is_read_without_its_json_files(project: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(str(project / "saved"))
    assert read(project, "saved") == ROWS


def test_a_saved_data_set_with_splits_gives_the_declared_one(project: Path) -> None:
    from datasets import Dataset, DatasetDict

    splits = {"train": Dataset.from_list(ROWS[:1]), "extra": Dataset.from_list(ROWS[1:])}
    DatasetDict(splits).save_to_disk(str(project / "saved"))
    assert read(project, "saved", split="extra") == ROWS[1:]
    error = refusal(project, "saved", split="dev")
    assert error.field == "data.sources[0].split"
    assert "train, extra" in error.fix


def test_a_row_knows_its_file_and_line(project: Path, write: Any) -> None:
    write("rows.jsonl", "\n" + LINES)
    rows = list(read_raw(SourceSpec(path="rows.jsonl"), project))
    assert [(row.file, row.line) for row in rows] == [("rows.jsonl", 2), ("rows.jsonl", 3), ("rows.jsonl", 4)]


def test_a_csv_row_is_counted_by_its_first_line(project: Path) -> None:
    as_csv(project / "rows.csv")
    assert [row.line for row in read_raw(SourceSpec(path="rows.csv"), project)] == [2, 4, 6]


def test_rows_are_not_read_before_they_are_asked_for(project: Path, write: Any) -> None:
    write("rows.jsonl", LINES + "not json\n")
    rows = read_raw(SourceSpec(path="rows.jsonl"), project)
    assert [next(rows).fields for _ in ROWS] == ROWS


def test_a_missing_file_names_the_field_and_the_nearest_name(project: Path, write: Any) -> None:
    write("data/support.jsonl", ROWS)
    error = refusal(project, "data/suport.jsonl")  # codespell:ignore
    assert (error.file, error.field, error.value) == (
        "acme/support.yaml",
        "data.sources[0].path",
        "data/suport.jsonl",  # codespell:ignore
    )
    assert "support.jsonl" in error.fix


@pytest.mark.slow
def test_a_missing_file_among_many_long_names_is_said_in_time(project: Path, write: Any) -> None:
    dice = random.Random(0)
    for _ in range(2_000):
        write(f"data/{''.join(dice.choices('ab', k=193))}.jsonl", "")
    write("data/support.jsonl", ROWS)
    before = time.process_time()
    refusal(project, f"data/{''.join(dice.choices('ab', k=193))}.jsonl")
    assert time.process_time() - before < 5
    assert "Did you mean support.jsonl" in refusal(project, "data/suport.jsonl").fix  # codespell:ignore


def test_a_glob_that_matches_nothing_is_refused(project: Path, write: Any) -> None:
    write("data/support.jsonl", ROWS)
    error = refusal(project, "data/*.parquet")
    assert "matches nothing" in error.problem
    assert "support.jsonl" in error.fix


def test_a_file_of_an_unknown_type_is_refused(project: Path, write: Any) -> None:
    write("rows.rst", "x")
    assert ".jsonl" in refusal(project, "rows.rst").fix


@pytest.mark.parametrize("name", ["e.jsonl", "e.json", "e.csv", "e.parquet", "e.arrow"])
def test_an_empty_file_is_refused(project: Path, write: Any, name: str) -> None:
    write(name, "")
    error = refusal(project, name)
    assert (error.file, error.problem) == (name, "the file holds no rows")


def test_a_file_of_blank_lines_is_empty(project: Path, write: Any) -> None:
    write("e.jsonl", "\n\n")
    assert refusal(project, "e.jsonl").problem == "the file holds no rows"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("m.jsonl", LINES + '{"prompt": \n', 4),
        ("m.jsonl", LINES + "[1, 2]\n", 4),
        ("m.json", '[{"a": 1},\n {"a" 2}]', 2),
        ("m.csv", "a,b\n1,2\n1,2,3\n", 3),
        ("m.csv", 'a,b\n1,2\n"open,2\n', 3),
        ("m.csv", "a,a\n1,2\n", 1),
    ],
)
def test_a_malformed_line_names_file_and_line(
    project: Path, write: Any, name: str, content: str, line: int
) -> None:
    write(name, content)
    error = refusal(project, name)
    assert (error.file, error.line) == (name, line)
    assert "malformed" in error.problem or "columns" in error.problem


def test_a_line_that_is_not_utf8_is_named(project: Path) -> None:
    (project / "latin.jsonl").write_bytes(LINES.encode() + '{"a": "é"}\n'.encode("latin-1"))
    error = refusal(project, "latin.jsonl")
    assert (error.line, error.problem) == (4, "not UTF-8 text")


READ_ALL = """
import sys
from pathlib import Path
from ft_dagster.data.rows.sources import read_raw, read_rows
from ft_dagster.spec.data import SourceSpec, TenantSource
try:
    print(sum(1 for _ in read_raw(SourceSpec(path=sys.argv[2]), Path(sys.argv[1]))))
except Exception as error:
    print(type(error).__name__, error)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""
MOST_MB = 1000  # of a process that reads a line of 3 GB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "begins", "limit"),
    [
        ("rows.jsonl.gz", b'{"text": "', f"rows.jsonl.gz:2: a line of more than {LONGEST_LINE:,} bytes"),
        ("rows.csv.gz", b'"', f"rows.csv.gz:2: a line of more than {LONGEST_LINE:,} bytes"),
        ("rows.json.gz", b'{"text": "', f"rows.json.gz:2: a line of more than {LONGEST_LINE:,} bytes"),
        ("list.json.gz", b'[{"text": "', f"list.json.gz:2: a line of more than {LARGEST_LIST:,} bytes"),
    ],
)
def test_a_gzip_of_one_line_of_3_gb_is_refused_and_never_held(
    project: Path, name: str, begins: bytes, limit: str
) -> None:
    """Of gzip's members one after the other makes one file."""
    member = gzip.compress(b"a" * 100_000_000, 1)
    (project / name).write_bytes(gzip.compress(b"\n" + begins) + 30 * member)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(project), name], capture_output=True, text=True, check=True
    )
    said, peak = done.stdout.splitlines()
    assert said.startswith(f"UserError {limit}")
    assert int(peak) < MOST_MB


@pytest.mark.slow
def test_a_json_list_on_many_lines_is_bounded_too(project: Path) -> None:
    line = gzip.compress(b" " * 63_999_999 + b"\n", 1)
    (project / "list.json.gz").write_bytes(gzip.compress(b"[\n") + 5 * line)
    error = refusal(project, "list.json.gz")
    assert f"a JSON list of more than {LARGEST_LIST:,} bytes" in error.problem
    assert error.file == "list.json.gz"


def test_json_may_begin_with_a_byte_order_mark_and_blank_lines(project: Path) -> None:
    (project / "list.json").write_text("\ufeff\n" + " " * 100_000 + '\n[{"text": "a"}]', "utf-8")
    (project / "lines.json").write_text('\ufeff\n \n{"text": "a"}\n', "utf-8")
    assert read(project, "list.json") == read(project, "lines.json") == [{"text": "a"}]


def test_a_file_whose_name_is_not_utf8_is_refused_in_one_line(project: Path) -> None:
    folder = project / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_text(LINES, "utf-8")
    (Path(os.fsdecode(bytes(folder) + b"/rows\xe9.jsonl"))).write_text(LINES, "utf-8")
    for path in ("rows", "rows/*.jsonl"):
        error = refusal(project, path)
        assert error.problem.endswith("rows\\udce9.jsonl is not UTF-8 text")
        assert (error.value, error.fix) == (path, "Rename the file, or its folder")
    assert read(project, "rows/a.jsonl")


def test_a_cut_gzip_file_is_refused(project: Path) -> None:
    (project / "cut.jsonl.gz").write_bytes(gzip.compress(LINES.encode() * 1000)[:-20])
    assert "gzip" in refusal(project, "cut.jsonl.gz").problem


@pytest.mark.parametrize("name", ["bad.parquet", "bad.arrow"])
def test_a_damaged_columnar_file_is_refused(project: Path, write: Any, name: str) -> None:
    write(name, "these are not columns at all, whatever the name says")
    assert refusal(project, name).file == name


@pytest.mark.slow
def test_rows_stream_from_s3_files_folders_and_globs(project: Path, put: Any) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS[:1]), project / "2.parquet")
    first = put("rows/1.jsonl", LINES.encode())
    put("rows/2.parquet", (project / "2.parquet").read_bytes())
    put("rows/3.jsonl.gz", gzip.compress(LINES.encode()))
    root = first.removesuffix("/1.jsonl")
    assert read(project, first) == ROWS
    assert read(project, f"{root}/*.parquet") == ROWS[:1]
    assert read(project, root) == ROWS + ROWS[:1] + ROWS


@pytest.mark.slow
def test_a_part_of_a_file_on_s3_is_not_held_to_the_checksum_of_the_whole(put: Any) -> None:
    with s3().open(put("parts/rows.jsonl", b"0123456789")) as file:
        file.seek(5)
        assert file.read() == b"56789"


@pytest.mark.slow
def test_a_missing_s3_object_is_refused_with_the_nearest(project: Path, put: Any) -> None:
    there = put("near/support.jsonl", LINES.encode())
    error = refusal(project, there.replace("support", "suport"))  # codespell:ignore
    assert error.field == "data.sources[0].path"
    assert "support.jsonl" in error.fix


@pytest.mark.slow
def test_s3_without_valid_credentials_is_refused(
    project: Path, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = put("closed/x.jsonl", LINES.encode())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "AWS_" in refusal(project, there).fix


def test_an_s3_server_that_does_not_answer_is_refused(
    project: Path, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "AWS_ENDPOINT_URL" in refusal(project, "s3://artifacts/x.jsonl").fix


def test_a_hub_data_set_that_cannot_be_reached_is_refused(project: Path) -> None:
    error = refusal(project, "some-org/some-data", revision="main")
    assert (error.field, error.value) == ("data.sources[0].path", "some-org/some-data")


@pytest.mark.parametrize("name", ["a/" + "b" * 300, "a/b.git", "a--b/c"])
def test_a_name_that_no_hub_data_set_can_have_is_refused_before_the_hub_is_asked(
    project: Path, name: str
) -> None:
    error = refusal(project, name)
    assert error.field == "data.sources[0].path"
    assert "no name that a data" in error.problem


def test_a_local_path_wins_over_a_hub_id(project: Path, write: Any) -> None:
    write("some-org/some-data/rows.jsonl", ROWS)
    assert read(project, "some-org/some-data") == ROWS


def test_a_missing_folder_of_the_project_is_not_taken_for_a_hub_id(project: Path, write: Any) -> None:
    write("data/faq/rows.jsonl", ROWS)
    error = refusal(project, "data/fak")
    assert "no such file" in error.problem
    assert "faq" in error.fix


def test_a_hub_data_set_streams_through_the_datasets_library(project: Path, write: Any) -> None:
    """The library takes a folder where it takes a hub id, so this runs what a hub id runs, without a hub."""
    from ft_dagster.data.rows.sources import read_hub

    write("repo/train.jsonl", ROWS)
    source = SourceSpec(path=str(project / "repo"), revision="0123456789abcdef0123456789abcdef01234567")
    rows = list(read_hub(source, ASKED))
    assert [row.fields for row in rows] == ROWS
    assert [row.line for row in rows] == [1, 2, 3]
    with pytest.raises(UserError) as caught:
        list(read_hub(source.model_copy(update={"split": "dev"}), ASKED))
    assert (caught.value.field, caught.value.value) == ("data.sources[0].split", "dev")


def parts(project: Path, row: dict[str, Any], **declared: Any) -> list[tuple[str, str]]:
    (project / "one.jsonl").write_text(json.dumps(row))
    [read] = read_rows(TenantSource(path="one.jsonl", **declared), project, ASKED)
    return list(read.parts)


@pytest.mark.parametrize("answer", ["label", "Label", "answer"])
def test_an_answer_beside_a_text_is_refused_until_it_is_said_which_is_learned(
    project: Path, answer: str
) -> None:
    row = {"text": "It never came.", answer: "delivery"}
    with pytest.raises(UserError) as caught:
        parts(project, row)
    error = caught.value
    assert (error.line, error.field) == (1, "data.sources[0].fields")
    assert error.problem == f"nothing says whether text or {answer} is learned"
    fields = {"instruction": "text", "output": answer}
    assert f"fields: {{instruction: text, output: {answer}}}" in error.fix
    turns = [("user", "It never came."), ("assistant", "delivery")]
    assert parts(project, row, fields=fields) == turns
    assert "format: text" in error.fix
    for declared in ({"format": "text"}, {"fields": {"text": "text"}}):
        assert parts(project, row, **declared) == [("text", "It never came.")]


@pytest.mark.parametrize("beside", [{}, {"url": "a"}, {"label": ""}, {"label": None}])
def test_a_text_without_an_answer_is_read_as_it_was(project: Path, beside: dict[str, Any]) -> None:
    assert parts(project, {"text": "A text.", **beside}) == [("text", "A text.")]


@pytest.mark.parametrize(
    ("fields", "row", "read"),
    [
        ({"instruction": "input", "output": "label"}, {"input": "q", "label": "a"}, "q|a"),
        ({"instruction": "system", "output": "label"}, {"system": "q", "label": "a"}, "q|a"),
        ({"instruction": "history", "output": "label"}, {"history": "q", "label": "a"}, "q|a"),
        ({"system": "input", "output": "output"}, {"instruction": "q", "input": "s", "output": "a"}, "s|q|a"),
        ({"input": "input", "output": "label"}, {"instruction": "q", "input": "c", "label": "a"}, "q\n\nc|a"),
        ({"output": "label"}, {"instruction": "q", "input": "c", "label": "a"}, "q\n\nc|a"),
        ({"group": "input"}, {"instruction": "q", "input": "c", "output": "a"}, "q\n\nc|a"),
        ({"prompt": "input"}, {"instruction": "q", "input": "c", "output": "a"}, "q\n\nc|a"),
    ],
)
def test_a_column_that_is_declared_to_be_a_turn_is_read_once(
    project: Path, fields: dict[str, str], row: dict[str, Any], read: str
) -> None:
    assert "|".join(text for _, text in parts(project, row, fields=fields)) == read


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (100, "6 of 9 rows of the file have this fault: the first in lines 3, 4, 6, 7, 9"),
        (5, "3 of the first 5 rows of the file have this fault: lines 3, 4, 6"),
    ],
)
def test_the_error_of_a_row_says_how_many_rows_of_its_file_have_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, most: int, said: str
) -> None:
    monkeypatch.setattr("ft_dagster.data.rows.sources.MOST_COUNTED", most)
    answers = ("yes", "", "", "no", " ", "", "so", "", "")
    with (project / "gaps.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "completion"), *((f"p{n}", a) for n, a in enumerate(answers))])
    with pytest.raises(UserError) as refused:
        list(read_rows(TenantSource(path="gaps.csv"), project))
    assert (refused.value.line, refused.value.field) == (3, "completion")
    assert refused.value.problem == f"a row without a completion: the answer is empty; {said}"
