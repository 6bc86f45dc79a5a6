"""`ft-dagster check` of a variant whose answers are scored by the tools that they call."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError, all_of
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.versions.check import Looks, check_variant
from tests.chat_templates import CALLS_BY_TAG

KEY = VariantKey("acme", "support")
TEXT = """\
description: calls a tool
owners: [ml@acme.example]
base_model: model
data: {sources: [rows.jsonl], splits: {minimum: 1}}
evaluation: {general: [arc_easy], kind: tool_calls}
"""


def row(number: int, *, calls: bool) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "find", "arguments": {"n": number}}}
    answer = {"content": "", "tool_calls": [call]} if calls else {"content": "Hello."}
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", **answer}]
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
    return {
        "messages": turns,
        "tools": [{"type": "function", "function": {"name": "find", "parameters": parameters}}],
    }


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path) -> Path:
    (tmp_path / "tenants/acme").mkdir(parents=True)
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(CALLS_BY_TAG)
    (tmp_path / "tenants/acme/support.yaml").write_text(TEXT)
    write(tmp_path, [n % 2 == 0 for n in range(12)])
    return tmp_path


def write(project: Path, calls: list[bool]) -> None:
    rows = (json.dumps(row(number, calls=each)) for number, each in enumerate(calls))
    (project / "rows.jsonl").write_text("\n".join(rows))


def told(project: Path) -> list[str]:
    found: list[str] = check_variant(load_settings(project), KEY)["warnings"]
    return [line for line in found if "call" in line]


def test_a_base_that_writes_calls_and_rows_with_and_without_are_checked_without_a_word(project: Path) -> None:
    assert told(project) == []


def test_a_base_whose_template_writes_no_calls_is_refused_with_a_way_out(
    project: Path, tiny_model_folder: Path
) -> None:
    shutil.copy(tiny_model_folder / "chat_template.jinja", project / "model/chat_template.jinja")
    with pytest.raises(UserError) as caught:
        check_variant(load_settings(project), KEY)
    (error,) = [one for one in all_of(caught.value) if one.field == "evaluation.kind"]
    assert error.value == "tool_calls"
    assert "leaves the calls of an answer out" in error.problem
    assert "chat_template.jinja" in error.fix
    assert error.file == str(project / "tenants/acme/support.yaml")


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([True] * 12, "whether the model calls where no call is due is not measured"),
        ([False] * 12, "none of 12 rows ends with a call"),
    ],
)
def test_rows_of_which_all_call_or_none_does_are_warned_of(
    project: Path, calls: list[bool], said: str
) -> None:
    write(project, calls)
    (line,) = told(project)
    assert said in line


def test_rows_for_which_a_run_is_refused_are_named_by_check(project: Path) -> None:
    rows = [row(number, calls=number % 2 == 0) for number in range(12)]
    rows[4]["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"n": "four"}
    (project / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError) as caught:
        check_variant(load_settings(project), KEY)
    (error,) = all_of(caught.value)
    assert (error.field, error.value) == ("data.max_malformed", 0.0)
    said = "1 of the 12 rows that were looked at are malformed: 1: arguments against the tool's schema"
    assert error.problem == f"{said} (first rows.jsonl:5)"
    file = project / "tenants/acme/support.yaml"
    file.write_text(TEXT.replace("splits:", "max_malformed: 0.1, splits:"))
    assert told(project) == []


def test_malformed_rows_are_named_where_not_all_rows_were_counted(project: Path) -> None:
    rows = [row(number, calls=number % 2 == 0) for number in range(12)]
    rows[4]["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"n": "four"}
    (project / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = "1 of the 10 rows that were looked at are malformed: 1: arguments against the tool's schema"
    with pytest.raises(UserError) as caught:
        check_variant(load_settings(project), KEY, looks=Looks(most=10))
    (error,) = all_of(caught.value)
    assert (error.field, error.problem) == ("data.max_malformed", f"{said} (first rows.jsonl:5)")
    file = project / "tenants/acme/support.yaml"
    file.write_text(TEXT.replace("splits:", "max_malformed: 0.05, splits:"))
    (line, *_) = check_variant(load_settings(project), KEY, looks=Looks(most=10))["warnings"]
    assert line == f"{said} (first rows.jsonl:5); a run is refused where more than 5.0% of all rows are"


def test_an_order_of_calls_is_of_calls_alone(project: Path) -> None:
    file = project / "tenants/acme/support.yaml"
    file.write_text(TEXT.replace("kind: tool_calls", "kind: tool_calls, call_order: free"))
    assert told(project) == []
    file.write_text(TEXT.replace("kind: tool_calls", "call_order: free"))
    with pytest.raises(UserError, match="call_order is of kind: tool_calls alone"):
        check_variant(load_settings(project), KEY)
