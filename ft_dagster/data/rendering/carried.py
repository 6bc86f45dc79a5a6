"""Gives a template what a row says beside its texts, in the form that the template takes, and finds what the
template would lose of it.

`note_chat` notes on a tokenizer what a declaration says of chats; all that renders by it acts on that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from ft_dagster.data.rows.rows import Message, Row
from ft_dagster.data.rows.tool_schemas import function_of
from ft_dagster.data.sources.turns import as_json
from ft_dagster.strict_json import JsonObject

T = TypeVar("T")
Reasoning = Literal["train", "drop", "context"]
Render = Callable[[list[JsonObject], list[JsonObject] | None], str]
CITY, TOWN, TOOL = "c4821", "t4821", "f4821"  # texts that no template writes
PROBED = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "d",
        "parameters": {"type": "object", "properties": {CITY: {"type": "string", "description": "d"}}},
    },
}


class ChatOptions(NamedTuple):
    """Says how chats are rendered: see `data.reasoning` and `data.chat_template_kwargs`."""

    reasoning: Reasoning = "train"
    kwargs: Mapping[str, Any] = {}


AS_USUAL = ChatOptions()


class CallForm(NamedTuple):
    """Says how a template takes a call: its arguments as an object or as text, and what stands for an answer
    that is calls alone.
    """

    as_object: bool
    empty: str | None


class ChatForm(NamedTuple):
    """Says how a template takes turns: texts as lists of parts where it takes no strings, as those of models
    that see; `calls` is None where it does not write calls.
    """

    in_parts: bool
    calls: CallForm | None


FORMS = tuple(CallForm(as_object, empty) for as_object in (True, False) for empty in ("", None))


class SaysOfChats(Protocol):
    """Says how chats are rendered, as `data` of a declaration does."""

    @property
    def reasoning(self) -> Reasoning | None: ...
    @property
    def chat_template_kwargs(self) -> Mapping[str, Any] | None: ...


def options_of(data: SaysOfChats) -> ChatOptions:
    """Return how a declaration has chats rendered."""
    return ChatOptions(data.reasoning or "train", data.chat_template_kwargs or {})


def note_chat(tokenizer: Any, options: ChatOptions) -> Any:
    """Note on the tokenizer how chats are rendered by it, and return it."""
    tokenizer._ft_dagster_chat = options
    return tokenizer


def chat_noted(tokenizer: Any) -> ChatOptions:
    noted: ChatOptions = getattr(tokenizer, "_ft_dagster_chat", AS_USUAL)
    return noted


@lru_cache(maxsize=256)
def tools_in(tools: str) -> list[JsonObject] | None:
    """Return the tools of a row as a template takes them, None where there are none."""
    return json.loads(tools) if tools else None


def turns_of(messages: Sequence[Message], options: ChatOptions, form: ChatForm) -> list[JsonObject]:
    """Return the turns as a template takes them."""
    return [_turn(message, options, form) for message in messages]


def kept_on(tokenizer: Any, name: str, find: Callable[[], T]) -> T:
    """Return what `find` returns, kept on the tokenizer by this name for as long as its template, and how
    chats are rendered, stay.
    """
    about = (tokenizer.chat_template, chat_noted(tokenizer))
    kept: tuple[Any, T] | None = getattr(tokenizer, f"_ft_dagster_{name}", None)
    if kept is None or kept[0] != about:
        kept = (about, find())
        setattr(tokenizer, f"_ft_dagster_{name}", kept)
    return kept[1]


def form_of(render: Render) -> ChatForm:
    """Return how a template takes turns. `render` renders by it and raises what it raises."""
    in_parts = not _reads(CITY, render) and _reads(_parts(CITY), render)
    return ChatForm(in_parts, next((form for form in FORMS if _takes(form, in_parts, render)), None))


def _reads(content: Any, render: Render) -> bool:
    """Say whether the template writes a question of this content."""
    try:
        return CITY in render([{"role": "user", "content": content}], None)
    except Exception:  # whatever a template can cause
        return False


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def lost_field(row: Row, whole: str, trained: Sequence[int], tokenizer: Any, render: Any) -> str | None:
    """Return the field of a row that its rendering `whole` does not carry, None where it carries all.

    Ids of calls, and the name of a tool's answer, only tie the answer to its call: the order of turns does,
    too. Reasoning must be carried where it is trained: templates leave out that of earlier turns by design.
    `render(row)` renders another row as this one was.
    """
    if row.tools and not all(map(whole.__contains__, _names_of(row.tool_list))):
        return "tools"
    if row.tools and _same(render, replace(row, tools=""), whole):
        return "tools"
    for i, message in enumerate(row.messages):
        if message.more and (
            name := _lost_of_turn(row, i, whole, trained=i in trained, tokenizer=tokenizer, render=render)
        ):
            return f"messages[{i}].{name}"
    return None


def _lost_of_turn(
    row: Row, i: int, whole: str, *, trained: bool, tokenizer: Any, render: Callable[[Row], str]
) -> str | None:
    message, said = row.messages[i], row.messages[i].said
    if calls := said.get("tool_calls"):
        one_less = {**said, "tool_calls": calls[:-1]} if calls[:-1] else _without(said, "tool_calls")
        shown = all(_stands(text, whole) for call in calls for text in _leaves(call["function"]))
        if not shown or _same(render, _with(row, i, one_less), whole):
            return "tool_calls"
    if (
        "name" in said
        and message.role != "tool"
        and _same(render, _with(row, i, _without(said, "name")), whole)
    ):
        return "name"
    thought = said.get("reasoning_content", "").strip()
    dropped = chat_noted(tokenizer).reasoning == "drop"
    return "reasoning_content" if thought and trained and not dropped and thought not in whole else None


def _without(said: Mapping[str, Any], name: str) -> JsonObject:
    return {key: value for key, value in said.items() if key != name}


def _with(row: Row, i: int, said: Mapping[str, Any]) -> Row:
    """Return the row whose i-th turn says this besides."""
    turns = list(row.messages)
    turns[i] = turns[i]._replace(more=as_json(said) if said else "")
    return replace(row, messages=tuple(turns))


def _same(render: Callable[[Row], str], other: Row, whole: str) -> bool:
    try:
        return render(other) == whole
    except Exception:  # a template may refuse the row without it, as answers without their call
        return False


def _names_of(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the names of tools, and of what they take."""
    for function in filter(None, map(function_of, tools)):
        yield function["name"]
        yield from (function.get("parameters") or {}).get("properties") or {}


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts in a call: its name, and the texts among its arguments."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(each)


def _stands(text: str, whole: str) -> bool:
    """Say whether a text stands in a rendering: as it is, as JSON has it, or as the same arguments."""
    if text.strip() in whole or any(json.dumps(text, ensure_ascii=a)[1:-1] in whole for a in (True, False)):
        return True
    try:
        inner = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(inner, dict | list) and all(_stands(each, whole) for each in _leaves(inner))


def _turn(message: Message, options: ChatOptions, form: ChatForm) -> JsonObject:
    said, calls = message.for_template(), form.calls
    if options.reasoning == "drop":
        said.pop("reasoning_content", None)
    if form.in_parts:
        said["content"] = _parts(message.content)
    if "tool_calls" in said and calls is not None:
        said["tool_calls"] = [_call(call, calls) for call in said["tool_calls"]]
        said["content"] = said["content"] if message.content else calls.empty
    return said


def _call(call: Mapping[str, Any], form: CallForm) -> JsonObject:
    function = call["function"]
    given = function.get("arguments", {})
    if form.as_object and isinstance(given, str):
        given = json.loads(given) if given.strip() else {}
    elif not form.as_object and not isinstance(given, str):
        given = json.dumps(given, ensure_ascii=False)
    return {"type": "function", **call, "function": {"name": function["name"], "arguments": given}}


def probe_call(name: str, arguments: Any, number: int = 0) -> JsonObject:
    """Return a call as templates take it; its id has nine letters and digits, since some take no other."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call{number:05d}", "type": "function", "function": function}


def shared(one: str, other: str) -> str:
    """Return the text that both begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _takes(form: CallForm, in_parts: bool, render: Render) -> bool:
    arguments: Any = {CITY: TOWN} if form.as_object else json.dumps({CITY: TOWN})
    call = probe_call(TOOL, arguments)
    asks = {"role": "user", "content": _parts("4821") if in_parts else "4821"}
    try:
        before = render([asks], [PROBED])
        text = render([asks, {"role": "assistant", "content": form.empty, "tool_calls": [call]}], [PROBED])
    except Exception:  # whatever a template can cause
        return False
    shown = text[len(shared(before, text)) :]
    as_python, twice = f"'{CITY}'", f'\\"{TOWN}'
    return all(part in shown for part in (TOOL, CITY, TOWN)) and as_python not in shown and twice not in shown
