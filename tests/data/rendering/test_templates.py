"""Every chat template that TRL ships as an original, none written here: whole rows by each of them, token by
token beside transformers' apply_chat_template.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trl

from ft_dagster.data.rendering.chat_form import ChatOptions, chat_noted, note_chat
from ft_dagster.data.rendering.chat_template import DATE
from ft_dagster.data.rendering.render import render
from ft_dagster.data.rows.rows import Message, Row
from ft_dagster.data.sources.turns import as_json
from ft_dagster.errors import UserError
from tests.tiny_model import tiny_tokenizer

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = sorted(file.stem for file in FOLDER.glob("*.jinja") if not file.stem.endswith("_training"))
MARKS = re.compile(
    r"<\|[^|>\s]+\|?>|<[a-z_]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>|\[[A-Z_]{3,}\]|<end_of_utterance>|</?s>"
)
SWITCHES: tuple[dict[str, bool], ...] = ({}, {"enable_thinking": True}, {"enable_thinking": False})
SWITCHED = [
    (name, kwargs)
    for name in TEMPLATES
    for kwargs in SWITCHES
    if not kwargs or "enable_thinking" in (FOLDER / f"{name}.jinja").read_text("utf-8")
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_weather",
            "description": "Find the weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A city"}},
                "required": ["city"],
            },
        },
    }
]
CALL = {"id": "a12345678", "type": "function"}
WHY, ANSWER, CITY = "The town is by the sea", "It rains there", "Gdynia"


def turns(*, calls: bool, reasoning: bool, as_text: bool) -> list[dict[str, Any]]:
    """The conversation as people write it, its arguments as an object or as text."""
    given: Any = json.dumps({"city": CITY}) if as_text else {"city": CITY}
    call = {**CALL, "function": {"name": "find_weather", "arguments": given}}
    said = {"reasoning_content": WHY} if reasoning else {}
    made: list[dict[str, Any]] = [{"role": "user", "content": "How is it there?"}]
    if calls:
        made.append({"role": "assistant", "content": "", "tool_calls": [call]})
        answered = {"role": "tool", "name": "find_weather", "tool_call_id": CALL["id"], "content": "rain"}
        made.append(answered)
    return [*made, {"role": "assistant", "content": ANSWER, **said}]


def row_of(given: list[dict[str, Any]], tools: bool) -> Row:
    messages = tuple(
        Message(
            turn["role"],
            turn["content"],
            as_json(more)
            if (more := {k: v for k, v in turn.items() if k not in ("role", "content")})
            else "",
        )
        for turn in given
    )
    return Row("messages", "data.sources[0]", messages=messages, tools=as_json(TOOLS) if tools else "")


def tokenizer_of(name: str) -> Any:
    template = (FOLDER / f"{name}.jinja").read_text("utf-8")
    tokenizer = tiny_tokenizer()
    marks = sorted(set(MARKS.findall(template)) - set(tokenizer.all_special_tokens))
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": marks}
    )
    tokenizer.chat_template = template
    return tokenizer


def as_template_takes(given: list[dict[str, Any]], tokenizer: Any, **takes: Any) -> list[int]:
    """Token ids by transformers alone, the arguments as the template takes them."""
    ids: list[int] = tokenizer.apply_chat_template(given, return_dict=False, **takes)
    return ids


def in_parts(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in given]


def is_written(given: list[dict[str, Any]], tokenizer: Any, texts: list[str], **takes: Any) -> bool:
    """Whether transformers alone writes all of these texts."""
    try:
        text = tokenizer.apply_chat_template(given, tokenize=False, **takes)
    except Exception:
        return False
    return all(part in text for part in texts)


@pytest.mark.slow
@pytest.mark.parametrize("reasoning", ["no reasoning", "train", "context", "drop"])
@pytest.mark.parametrize("calls", [True, False], ids=["calls", "no calls"])
@pytest.mark.parametrize(("name", "kwargs"), SWITCHED, ids=str)
def test_a_whole_row_has_the_tokens_of_the_template_or_is_refused_by_the_field(
    name: str, kwargs: dict[str, bool], calls: bool, reasoning: str
) -> None:
    tokenizer, thinks = tokenizer_of(name), reasoning != "no reasoning"
    options = ChatOptions("train" if not thinks else reasoning, kwargs)  # type: ignore[arg-type]
    note_chat(tokenizer, options)
    row = row_of(turns(calls=calls, reasoning=thinks, as_text=True), calls)
    template = f"{{% macro strftime_now(format) %}}{DATE}{{% endmacro %}}\n{tokenizer.chat_template}"
    takes = {"tools": TOOLS if calls else None, "chat_template": template, "date_string": DATE, **kwargs}
    forms = [
        form(turns(calls=calls, reasoning=thinks and reasoning != "drop", as_text=as_text))
        for as_text in (False, True)
        for form in (list, in_parts)
    ]
    says = [ANSWER, *([CITY, "find_weather"] if calls else [])]
    thought = [WHY] if thinks and reasoning != "drop" else []
    try:
        example = render(row, tokenizer)
    except UserError as error:
        untold = "cannot be told from its prompt" in error.problem
        field = re.search(
            r"does not write (tools|messages\[\d\]\.(?:tool_calls|reasoning_content))", error.problem
        )
        assert untold or field
        if field is not None:
            texts = {"tools": ["Find the weather"], "tool_calls": [CITY], "reasoning_content": thought}
            lost = texts[field[1].rpartition(".")[2]]
            given = [each for each in forms if is_written(each, tokenizer, [], **takes)]
            assert not all(is_written(each, tokenizer, lost, **takes) for each in given) or not given
        return
    expected = [
        as_template_takes(given, tokenizer, **takes)
        for given in forms
        if is_written(given, tokenizer, [*says, *thought], **takes)
    ]
    assert example.input_ids in expected or example.input_ids[:-1] in expected
    [(start, end)] = example.spans
    trained, before = (
        tokenizer.decode(ids) for ids in (example.input_ids[start:end], example.input_ids[:start])
    )
    assert trained.count(ANSWER) == 1
    assert (WHY in trained) == (reasoning == "train")
    assert (WHY in before) == (reasoning == "context")
    assert CITY not in trained


@pytest.mark.parametrize(
    ("name", "kwargs", "reasoning", "way"),
    [
        ("nemotron_3_nano", {}, False, "data.chat_template_kwargs: {enable_thinking: false}, another base"),
        ("nemotron_3_ultra", {}, False, "data.chat_template_kwargs: {enable_thinking: false}, another base"),
        ("nemotron_3_nano", {"enable_thinking": False}, True, "data.reasoning: drop, another base"),
        ("deepseekv3", {}, False, "another base"),
        ("deepseek_r1_distill", {}, False, "another base"),
    ],
)
def test_a_template_that_opens_a_thought_names_the_ways_out_that_are_ones(
    name: str, kwargs: dict[str, bool], reasoning: bool, way: str
) -> None:
    tokenizer, options = tokenizer_of(name), ChatOptions("train", kwargs)
    row = row_of(turns(calls=False, reasoning=reasoning, as_text=True), False)
    with pytest.raises(UserError, match="cannot be told from its prompt") as refused:
        render(row, note_chat(tokenizer, options))
    assert refused.value.fix.startswith(f"Use {way}")
    assert chat_noted(tokenizer) == options
    if way != "another base":
        changed = (
            ChatOptions("drop", kwargs) if reasoning else ChatOptions("train", {"enable_thinking": False})
        )
        example = render(row, note_chat(tokenizer, changed))
        [(start, end)] = example.spans
        assert ANSWER in tokenizer.decode(example.input_ids[start:end])


def called(*, train_on: Any, **more: Any) -> list[str]:
    """What qwen3 trains of a conversation in which a tool is called twice; `more`: of the first call."""
    tokenizer = tokenizer_of("qwen3_instruct_2507")
    first = turns(calls=True, reasoning=False, as_text=False)
    first[1] |= more
    row = row_of([*first, *turns(calls=True, reasoning=False, as_text=True)[:2]], tools=True)
    example = render(row, tokenizer, train_on=train_on)
    return [tokenizer.decode(example.input_ids[start:end]) for start, end in example.spans]


def test_a_call_is_trained_with_its_end() -> None:
    written = '{"name": "find_weather", "arguments": {"city": "Gdynia"}}'
    call = f"<tool_call>\n{written}\n</tool_call><|im_end|>"
    assert called(train_on="completions") == [call]
    assert called(train_on="assistant_turns") == [call, f"{ANSWER}<|im_end|>", call]


def test_a_turn_with_train_false_is_context() -> None:
    spans = called(train_on="assistant_turns", train=False)
    assert len(spans) == 2
    assert CITY not in spans[0]


def test_what_follows_the_last_trained_answer_is_not_rendered() -> None:
    tokenizer = tokenizer_of("qwen3_instruct_2507")
    given = [*turns(calls=False, reasoning=False, as_text=False), {"role": "user", "content": "And then?"}]
    row = row_of([*given, {"role": "assistant", "content": "It clears.", "train": False}], tools=False)
    assert render(row, tokenizer) == render(row_of(given[:2], tools=False), tokenizer)


def test_a_name_that_the_template_leaves_out_is_refused_by_the_field() -> None:
    given = turns(calls=False, reasoning=False, as_text=False)
    given[0]["name"] = "Ada"
    with pytest.raises(UserError, match=r"does not write messages\[0\]\.name"):
        render(row_of(given, tools=False), tokenizer_of("qwen3"))


@pytest.mark.parametrize("name", ["llama3_1", "qwen2_5", "qwen3"])
def test_a_call_without_arguments_is_one_however_that_is_said(name: str) -> None:
    texts = set[str]()
    ways: tuple[Any, ...] = ({}, None, "", " ", "{}")
    for given in ways:
        call = {**CALL, "function": {"name": "find_weather", "arguments": given}}
        asked = {"role": "user", "content": "How is it?"}
        row = row_of([asked, {"role": "assistant", "content": "", "tool_calls": [call]}], tools=True)
        tokenizer = tokenizer_of(name)
        texts.add(tokenizer.decode(render(row, tokenizer).input_ids))
    assert len(texts) == 1
    assert "null" not in texts.pop()


def test_an_argument_whose_name_json_escapes_is_not_lost() -> None:
    parameters = {"type": "object", "properties": {'a "city" or é': {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "find", "description": "d", "parameters": parameters}}
    row = row_of([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], tools=False)
    tokenizer = tokenizer_of("qwen3")
    rendered = render(replace(row, tools=as_json([tool])), tokenizer)
    assert json.dumps('a "city" or é', ensure_ascii=False) in tokenizer.decode(rendered.input_ids)


def test_what_a_template_reads_and_a_tool_has_not_is_named() -> None:
    """The name stands in the template, so that it tells nothing of the row."""
    row = row_of(turns(calls=False, reasoning=False, as_text=False), tools=False)
    bare = as_json([{"type": "function", "function": {"name": "find_weather"}}])
    with pytest.raises(UserError, match="refuses the row: it reads 'description', which is missing there"):
        render(replace(row, tools=bare), tokenizer_of("gptoss"))
