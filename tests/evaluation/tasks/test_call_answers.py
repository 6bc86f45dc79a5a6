"""Answers of the own task that are scored by their calls."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.data.rendering.render import load_tokenizer, render_turn
from ft_dagster.data.rows.dataset_io import as_row
from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.model import TokenBatchedLM, load_model
from ft_dagster.evaluation.request import QuestionsFile, SplitTask
from ft_dagster.evaluation.tasks import own_split
from ft_dagster.evaluation.tasks.own_split import Encoded
from tests.call_templates import OWN, TEMPLATES, WRITING
from tests.chat_templates import CALLS_BY_TAG
from tests.evaluation.questions import requests, row, write_rows

pytestmark = pytest.mark.slow
CITY = {"type": "string", "description": "A city."}
SCHEMA = {"type": "object", "properties": {"city": CITY}, "required": ["city"]}
TOOL = {"name": "weather", "description": "It says the weather.", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": TOOL}]


@pytest.fixture
def calling_tokenizer(tiny_model_folder: Path) -> Any:
    tokenizer = load_tokenizer(tiny_model_folder)
    tokenizer.chat_template = CALLS_BY_TAG
    return tokenizer


def asked(number: int, *calls: tuple[str, Any], content: str = "") -> dict[str, Any]:
    named = [
        {"id": f"abcdefgh{n}", "type": "function", "function": {"name": name, "arguments": args}}
        for n, (name, args) in enumerate(calls)
    ]
    answer = {"role": "assistant", "content": content, **({"tool_calls": named} if named else {})}
    turns = [{"role": "user", "content": f"question {number}"}, answer]
    return {**row(number), "messages": json.dumps(turns), "tools": json.dumps(TOOLS)}


@pytest.fixture
def tasks(tmp_path: Path, calling_tokenizer: Any) -> Callable[..., Any]:
    def make(rows: list[dict[str, Any]], tokenizer: Any = calling_tokenizer, **changes: Any) -> Any:
        file = write_rows(tmp_path / "test.parquet", rows)
        test = QuestionsFile(path=file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        own = SplitTask(test=test, max_new_tokens=300, kind="tool_calls", **changes)
        return own_split.test_split_tasks(own, tokenizer, limit=None, seed=0, max_length=4096)

    return make


def scores(task: Any, written: str, number: int) -> dict[str, float]:
    doc = next(doc for doc in task.eval_docs if doc["index"] == number)
    found: dict[str, float] = task.process_results(doc, [written])
    return found


OSLO, ROME = '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}', '[TOOL_CALLS]weather[ARGS]{"city": "Rome"}'


def test_an_answer_is_scored_by_the_calls_of_its_row(tasks: Callable[..., Any]) -> None:
    rows = [asked(0, ("weather", {"city": "Oslo"})), asked(1, content="Hello.")]
    _, task = tasks(rows)
    assert scores(task, OSLO, 0) == {"calls_right": 1, "calls_valid": 1}
    assert scores(task, ROME, 0) == {"calls_right": 0, "calls_valid": 1}
    assert scores(task, OSLO.replace("Oslo", '", "n": 1').replace("city", "town"), 0)["calls_valid"] == 0
    assert scores(task, "It rains.", 0) == {"calls_right": 0, "calls_valid": 0}
    assert scores(task, "It rains.", 1) == {"calls_right": 1, "undue_call": 0}
    assert scores(task, OSLO, 1) == {"calls_right": 0, "undue_call": 1}
    assert scores(task, "[TOOL_CALLS]weather[ARGS]{", 1) == {"calls_right": 0, "undue_call": 1}


def test_a_row_is_asked_with_its_tools_and_up_to_its_last_trained_answer(
    tasks: Callable[..., Any], calling_tokenizer: Any
) -> None:
    given = asked(0, ("weather", {"city": "Oslo"}))
    turns = json.loads(given["messages"])
    after = [{"role": "user", "content": "Thanks."}, {"role": "assistant", "content": "Bye.", "train": False}]
    loss, task = tasks([{**given, "messages": json.dumps([*turns, *after])}, {**asked(1), "tools": ""}])
    shown = f"<|im_start|>system\nweather {json.dumps(SCHEMA['properties'])}<|im_end|>\n"
    for each in (loss, task):
        with_tools, without = sorted(each.eval_docs, key=lambda doc: doc["index"])
        prompt = f"{shown}<|im_start|>user\nquestion 0<|im_end|>\n<|im_start|>assistant\n"
        assert with_tools["prompt"] == calling_tokenizer.decode(with_tools["asked_ids"]) == prompt
        assert with_tools["answer"] == OSLO
        assert "weather" not in without["prompt"]


def test_the_order_of_calls_counts_unless_it_is_free(tasks: Callable[..., Any]) -> None:
    rows = [asked(0, ("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"}))]
    for order, right in (("fixed", 0), ("free", 1)):
        _, task = tasks(rows, call_order=order)
        assert scores(task, OSLO + ROME, 0)["calls_right"] == 1
        assert scores(task, ROME + OSLO, 0)["calls_right"] == right


@pytest.mark.parametrize(
    ("call", "why"),
    [(("forecast", {"city": "Oslo"}), "names no tool"), (("weather", {}), "break 'required'")],
)
def test_a_row_whose_own_call_is_invalid_is_refused_with_its_record(
    tasks: Callable[..., Any], call: tuple[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why) as caught:
        tasks([asked(0, call)])
    assert caught.value.field == "evaluation.kind"
    assert "Oslo" not in str(caught.value)


def test_a_base_whose_template_writes_no_calls_is_refused(
    tasks: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    with pytest.raises(UserError, match="leaves the calls of an answer out") as caught:
        tasks([{**asked(0, content="Hello."), "tools": None}], tokenizer=tiny_tokenizer)
    assert "chat_template.jinja" in caught.value.fix


@pytest.mark.parametrize("whole", [True, False])
def test_special_tokens_of_an_answer_are_kept_where_calls_are_read(
    tiny_model_folder: Path, whole: bool
) -> None:
    """Some formats mark a call by them."""
    model, tokenizer = load_model(tiny_model_folder, None, device="cpu", dtype="float32")
    mark = tokenizer.convert_tokens_to_ids("<|im_start|>")
    bias = torch.zeros(model.get_output_embeddings().weight.shape[0])
    bias[mark] = 1e6
    model.get_output_embeddings().register_forward_hook(lambda _, given, made: made + bias)
    asking = Encoded.of("hi", tokenizer("hi")["input_ids"], whole=whole)
    generation = {"until": [], "max_gen_toks": 3, "do_sample": False}
    (answer,) = TokenBatchedLM(model, tokenizer).generate_until(
        requests("generate_until", (asking, generation))
    )
    assert answer == ("<|im_start|>" * 3 if whole else "")


# Their generation prompt begins a thought, and they render no answer with it: such rows are refused.
UNTOLD = [name for name in WRITING if name.startswith(("deepseekv3", "nemotron"))]


@pytest.mark.parametrize("name", [name for name in WRITING if name not in UNTOLD])
def test_the_rows_own_answer_is_right_in_every_template_that_writes_calls(
    tasks: Callable[..., Any], tiny_model_folder: Path, name: str
) -> None:
    """Asked and written as it is trained."""
    tokenizer = load_tokenizer(tiny_model_folder)
    tokenizer.chat_template = (TEMPLATES | OWN)[name]
    rows = [
        asked(0, ("weather", {"city": "São 東京"})),
        asked(1, content="Hello."),
        asked(2, ("weather", {"city": "7"})),
    ]
    _, task = tasks(rows, tokenizer=tokenizer)
    for number, (doc, given) in enumerate(zip(task.eval_docs, rows, strict=True)):
        turn = render_turn(as_row(given), tokenizer)
        written = turn.lead + turn.answer + turn.end
        found = scores(task, written.strip(), number)
        assert found == (
            {"calls_right": 1, "undue_call": 0} if number == 1 else {"calls_right": 1, "calls_valid": 1}
        )
        assert written.startswith(doc["whole_lead"])
    called = render_turn(as_row(rows[0]), tokenizer)
    assert scores(task, called.lead + called.answer + called.end, 2) == {"calls_right": 0, "calls_valid": 1}
    assert scores(task, called.lead + called.answer + called.end, 1) == {"calls_right": 0, "undue_call": 1}
