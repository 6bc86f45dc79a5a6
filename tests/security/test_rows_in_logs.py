"""What Dagster keeps of a run has no text of a tenant's row: its databases and compute logs cannot forget."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.build import default_resources as resources
from ft_dagster.data.rendering.chat_template import render_asked
from ft_dagster.data.rendering.render import load_tokenizer, render
from ft_dagster.data.rows.rows import Message, Row
from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError
from ft_dagster.gate.answer_scores import QueryError, run_query
from ft_dagster.roots import Roots
from ft_dagster.spec.data import SourceSpec, TenantSource
from tests.instances import lay_databases
from tests.security.projects import KEY, declare, settle, two_tenants, write

SAID = "Agnes Miller owes the bank four thousand"  # stands in a row
CHAT = [{"role": "user", "content": SAID}, {"role": "assistant", "content": SAID}]
PAIR = {"prompt": SAID, "completion": SAID}


def with_turn(**turn: Any) -> dict[str, Any]:
    return {"messages": [{**CHAT[0], **turn}, CHAT[1]]}


ROWS: dict[str, Any] = {
    "not JSON": f'{{"prompt": "{SAID}", "completion": {SAID}}}',
    "a line cut off": f'{{"prompt": "{SAID}',
    "a bad escape": f'{{"prompt": "\\x {SAID}"}}',
    "a text": json.dumps(SAID),
    "a list": json.dumps([SAID, SAID]),
    "no column that is known": json.dumps({"story": SAID}),
    "no list of messages": json.dumps({"messages": SAID}),
    "messages that are texts": json.dumps({"messages": [SAID]}),
    "another role": json.dumps(with_turn(role=SAID)),
    "a role that is no text": json.dumps(with_turn(role=[SAID])),
    "content that is no text": json.dumps(with_turn(content={"said": SAID})),
    "content of parts": json.dumps(with_turn(content=[{"type": "image", "image": SAID}])),
    "tool calls": json.dumps(with_turn(tool_calls=[{"name": SAID}])),
    "no last answer": json.dumps({"messages": CHAT[:1]}),
    "an empty answer": json.dumps({"messages": [CHAT[0], {"role": "assistant", "content": " "}]}),
    "no user turn": json.dumps({"messages": CHAT[1:]}),
    "a prompt that is no text": json.dumps({"prompt": [SAID], "completion": SAID}),
    "an empty completion": json.dumps({"prompt": SAID, "completion": ""}),
    "no completion": json.dumps({"prompt": SAID, "completion": None}),
    "a group that is none": json.dumps({**PAIR, "group": [SAID]}),
    "half a pair": json.dumps({"prompt": SAID + "\ud800", "completion": SAID}),
    "preferences": json.dumps({"prompt": SAID, "chosen": SAID, "rejected": SAID}),
    "a system that is no text": json.dumps({"instruction": SAID, "output": SAID, "system": {"x": SAID}}),
    "sharegpt of another role": json.dumps({"conversations": [{"from": SAID, "value": SAID}]}),
    "a text that is none": json.dumps({"text": {"body": SAID}}),
}
FILES = {
    "rows.csv": f'prompt,completion\n"{SAID}",x,{SAID}\n',
    "quotes.csv": f'prompt,completion\n"{SAID}"{SAID},x\n',
    "open.csv": f'prompt,completion\nx,"{SAID}\n',
    "list.json": f'[{{"prompt": "{SAID}" {SAID}}}]',
    "texts.json": json.dumps([SAID]),
    "rows.tsv": f"prompt\tcompletion\n{SAID}\n",
}
HOOKS = {
    "raises its row": "def hook(row): raise ValueError(row)",
    "raises of a cell": "def hook(row): return {'prompt': int(row['prompt'])}",
    "raises by a key": "def hook(row): return {}[row['prompt']]",
    "ends": "import sys\ndef hook(row): sys.exit(row['prompt'])",
    "raises in words of its own": "class Bad(Exception): pass\ndef hook(row): raise Bad(row['prompt'])",
    "chains": "def hook(row):\n    try: int(row['prompt'])\n    except ValueError: raise KeyError(1)",
    "returns no mapping": "def hook(row): return row['prompt']",
    "another each time": "from random import random\ndef hook(row): return {**row, 'group': random()}",
}


def silent(error: BaseException) -> UserError:
    """That says nothing of the row, nor does anything that it leads to."""
    assert isinstance(error, UserError), error
    told = "".join(traceback.format_exception(error)) + json.dumps(error.as_dict())
    assert not any(word in told for word in SAID.split() if len(word) > 4), told
    assert error.fix
    return error


def refused(source: Any, project: Path, **roots: Any) -> UserError:
    place = DeclaredAt("acme/support.yaml", "data.sources[0]", Roots(project=project, tenant="acme", **roots))
    with pytest.raises(UserError) as caught:
        list(read_rows(source, project, place))
    return silent(caught.value)


@pytest.mark.parametrize("wrong", ROWS)
def test_a_malformed_row_is_named_and_not_quoted(tmp_path: Path, wrong: str) -> None:
    good = json.dumps(PAIR if "prompt" in ROWS[wrong] else {"messages": CHAT})
    (tmp_path / "rows.jsonl").write_text(f"{ROWS[wrong]}\n{good}\n", "utf-8")
    error = refused(SourceSpec(path="rows.jsonl"), tmp_path, folders=(tmp_path,))
    assert (error.file, error.line) == ("rows.jsonl", 1)
    assert str(error).startswith("rows.jsonl:1: ")


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_named_and_not_quoted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], "utf-8")
    error = refused(SourceSpec(path=name), tmp_path, folders=(tmp_path,))
    assert (error.file, error.line is not None) == (name, True)


def test_a_cell_that_is_not_utf8_is_one_error(tmp_path: Path) -> None:
    cells = pa.array([SAID.encode() + b"\xff"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"prompt": cells, "completion": cells}), tmp_path / "rows.parquet")
    assert refused(SourceSpec(path="rows.parquet"), tmp_path, folders=(tmp_path,)).file == "rows.parquet"


@pytest.mark.parametrize("wrong", HOOKS)
def test_an_error_of_a_transformation_is_named_by_its_kind_and_place(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(PAIR) + "\n", "utf-8")
    (tmp_path / "hooks.py").write_text(HOOKS[wrong], "utf-8")
    source = TenantSource(path="rows.jsonl", transform="hooks.py:hook")
    error = refused(source, tmp_path, folders=(tmp_path,), transforms=("hooks.py:hook",))
    if " raised " in error.problem:
        assert "in hooks.py, line " in error.problem


QUOTING = "{{ raise_exception('no turn like ' ~ messages[-1]['content']) }}"


def test_a_chat_template_that_quotes_a_row_is_not_repeated(tiny_model_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_folder)
    turns = (Message("user", SAID), Message("assistant", SAID))
    for template in (QUOTING, "{{ raise_exception('no turn of ' ~ messages[-1]['content'][:12]) }}"):
        tokenizer.chat_template = template
        with pytest.raises(UserError, match="the chat template refuses the row") as of_row:
            render(Row("messages", "data.sources[0]", turns), tokenizer)
        with pytest.raises(UserError, match="refuses a question") as of_question:
            render_asked(turns[:1], tokenizer)
        silent(of_row.value)
        silent(of_question.value)


def test_a_query_that_a_row_has_is_not_quoted(tmp_path: Path) -> None:
    import sqlite3

    database = tmp_path / "town.sqlite"
    sqlite3.connect(database).execute("CREATE TABLE town (name TEXT)").connection.close()
    for query in ("SELECT Agnes", "SELECT * FROM Agnes", "SELECT 'Agnes", "Agnes Miller", "SELECT Agnes()"):
        with pytest.raises(QueryError) as caught:
            run_query(database, query)
        assert str(caught.value)
        assert "Agnes" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["a line cut off", "another role"])
def test_no_database_and_no_log_of_dagster_has_text_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """A run of its own home, with the logs of its steps."""
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    project, home = two_tenants(tmp_path), tmp_path / "home"
    good = PAIR if "prompt" in ROWS[wrong] else {"messages": CHAT}
    settle(project)
    write(project / "policy.yaml", {"evaluation": {"general": "none", "decontaminate": "optional"}})
    asked = {"general": [], "task": [], "canaries": [SAID]}
    declare(project, data={"sources": ["data/acme/rows.jsonl"]}, evaluation=asked)
    write(project / "data/acme/rows.jsonl", f"{json.dumps(good)}\n{ROWS[wrong]}\n")
    lay_databases(home)
    selected = [each for each in CHAIN if each.key.path[-1] in ("declaration", "task_dataset")]
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        instance.add_dynamic_partitions(PARTITIONS, [str(KEY)])
        result = dg.materialize(
            selected, partition_key=str(KEY), instance=instance, resources=resources(str(project)),
            raise_on_error=False,
        )  # fmt: skip
        assert not result.success
    kept = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    assert any(b"data/acme/rows.jsonl:2" in content for content in kept.values())
    having = [str(file.relative_to(home)) for file, content in kept.items() if b"Miller" in content]
    assert having == []
