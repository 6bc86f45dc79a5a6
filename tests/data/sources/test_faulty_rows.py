"""Rows that cannot be read are told in plain words, and with what mends them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.json_faults import fault_of_json
from ft_dagster.errors import UserError
from ft_dagster.spec.data import TenantSource

ILLEGAL = "Illegal trailing comma before end of object"  # Python 3.13
FAULTS = {  # a file's content -> what is said of its first line
    '{"text": "a"}{"text": "b"}': "two rows stand on one line. Put each row on a line of its own",
    '{"text": "a"}, {"text": "b"}': "two rows stand on one line. Put each row on a line of its own",
    '{"text": "a"},': "a comma stands behind the row. Remove the comma at its end",
    '{"text": "a"} b': "more than one JSON object stands there. Put one object on each line",
    '{"text": "a",}': "a comma has nothing behind it. Remove the comma",
    "{'text': 'a'}": "names or texts stand in single quotes. Write them in double quotes",
    '{text: "a"}': "a name without double quotes",
    '{"text": None}': "a word that JSON does not have. Write null, true or false",
    '{"text": "a\tb"}': "a tab, a line break or another control character in a text",
    '{"text": "C:\\data"}': "a backslash before a letter that takes none",
    '{"text": "say "a""}': "or a quote inside a text",
    '// rows\n{"text": "a"}': "JSON has no comments. Remove the comment",
    "[\n": "it ends inside a row. Write each row whole on one line, or all rows as one list in a .json file",
    '{"text": "a}': "a quote is never closed. Close it",
    '{"text": "a': "it ends inside a row. Write each row whole on one line",
    "text": "not JSON. Write one JSON object a row",
    '[{"text": "a"}]': "not an object but a list of 1. Name the file .json where it is one list of rows",
    '{"rows": [{"text": "a"}]}': "Its rows stand inside the field rows: write that list alone into the file",
    '{"version": "1.1", "data": [{"text": "a"}]}': "Its rows stand inside the field data",
    '{"asked": "How?", "apis": [{"name": "now"}]}': "The row has: asked, apis. Rename its columns",
    '{"talk": [{"role": "user"}]}': "The row has: talk. Rename its columns with `fields`",
}


def said_of(project: Path, name: str, content: str, **declared: object) -> str:
    (project / name).write_text(content)
    with pytest.raises(UserError) as refused:
        list(read_rows(TenantSource.model_validate({"path": name, **declared}), project))
    return str(refused.value)


@pytest.mark.parametrize("content", FAULTS)
def test_a_line_that_is_no_row_is_told_in_plain_words(tmp_path: Path, content: str) -> None:
    said = said_of(tmp_path, "rows.jsonl", content)
    assert said.startswith("rows.jsonl:1: ")
    assert FAULTS[content] in said


def test_a_list_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    said = said_of(tmp_path, "rows.json", '[{"text": "a"}, {"text": "b')
    assert said == (
        "rows.json:1: malformed JSON: it ends before its list does. Write the file again: its end is missing"
    )


def test_a_column_that_a_whole_table_lacks_is_said_once_and_of_the_table(tmp_path: Path) -> None:
    table = "question,answer\n" + "a,b\n" * 9
    said = said_of(tmp_path, "rows.csv", table, fields={"instruction": "question", "output": "answr"})
    assert said.startswith("rows.csv: ")
    assert said.endswith(".fields.output: no such column (got 'answr'). Did you mean answer?")


def test_a_list_that_a_quote_spoils_has_its_end(tmp_path: Path) -> None:
    said = said_of(tmp_path, "rows.json", '[{"text": "a"}, {"text": "b}]')
    assert "rows.json:1: malformed JSON: a quote is never closed" in said


def test_a_comma_before_a_bracket_is_named_in_the_words_of_each_python() -> None:
    text = '{"text": "a",}'
    for what, at in (("Expecting property name enclosed in double quotes", 13), (ILLEGAL, 12)):
        said = fault_of_json(json.JSONDecodeError(what, text, at), text)
        assert said == ("a comma has nothing behind it", "Remove the comma")


def test_a_column_that_another_row_has_is_not_said_to_be_lacked_by_the_file(tmp_path: Path) -> None:
    rows = '{"b": "x"}\n{"a": "x"}\n'
    said = said_of(tmp_path, "rows.jsonl", rows, fields={"prompt": "a", "completion": "b"})
    assert said.startswith("rows.jsonl:1: ")


def test_a_name_with_a_bar_is_the_one_column_of_a_table_whose_rows_have_none(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("name|text\na text\nanother | text | in bars\nyes | no\n")
    source = TenantSource(path="rows.csv", fields={"text": "name|text"})
    assert [row.text for row in read_rows(source, tmp_path)] == [
        "a text", "another | text | in bars", "yes | no",
    ]  # fmt: skip
    assert "separated by bars, not by commas" in said_of(tmp_path, "bars.csv", "name|text\na|b\n")
