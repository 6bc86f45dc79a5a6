"""Gives a template what a row says beside its texts, in the form that the template takes.

`note_chat` notes on a tokenizer what a declaration says of chats; all that renders by it acts on that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from ft_dagster.data.rows.rows import Message
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
    given = function.get("arguments")
    if given is None or (isinstance(given, str) and not given.strip()):
        given = {}
    if form.as_object and isinstance(given, str):
        given = json.loads(given)
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
