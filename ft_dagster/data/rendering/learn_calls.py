"""Learns in which format a chat template writes calls of tools.

Nothing is known of a template beforehand. Calls whose names and arguments are known are rendered by it, and
what stands around them is the format. A format counts as learned only where it reads back every call that was
rendered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ft_dagster.data.rendering.call_format import OTHER_NAME, Call, CallFormat, CallsRead, Style
from ft_dagster.data.rendering.call_values import as_object, objects_in, python_arguments
from ft_dagster.data.rendering.chat_form import kept_on, probe_call, shared
from ft_dagster.data.rendering.chat_rules import chats, stop_token_ids
from ft_dagster.data.rendering.chat_template import render_chat
from ft_dagster.data.rows.rows import Message
from ft_dagster.data.sources.turns import as_json
from ft_dagster.strict_json import JsonObject

Render = Callable[[list[Message]], str]  # of a whole conversation
ASKED, SAID, THOUGHT = "4821 asks", "4821 says", "4821 thinks"  # texts that no template writes
FIRST, SECOND = "zq_lookup_first", "zq_lookup_second"
ALPHA, BETA = "zq_alpha", "zq_beta"  # in the order that a template has them in which sorts them
WORD, NUMBER = "Qfour", 4821
PROBES: tuple[JsonObject, ...] = (
    {ALPHA: WORD, BETA: NUMBER},
    {ALPHA: WORD, BETA: {"inner": ["x, y", 7, True, None]}},
    {ALPHA: False, BETA: [1.5, {"deep": "z"}]},
)


class NoCalls(ValueError):
    """Signals a template whose calls cannot be read; its text says why."""


def format_of(tokenizer: Any) -> CallFormat:
    """Return the format in which a tokenizer's chat template writes calls. Raises NoCalls."""
    return kept_on(tokenizer, "calls", lambda: _learned(tokenizer))


def _learned(tokenizer: Any) -> CallFormat:
    if not chats(tokenizer):
        raise NoCalls("it has no chat template")
    ends, tools = tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)), as_json(probe_tools())
    return learn_format(lambda turns: render_chat(turns, tokenizer, tools=tools), ends)


def why_no_calls(tokenizer: Any) -> str:
    """Say why no calls are read of answers in a tokenizer's chat template; empty where they are."""
    try:
        format_of(tokenizer)
    except NoCalls as error:
        return str(error)
    return ""


def learn_format(render: Render, ends: Sequence[str] = ()) -> CallFormat:
    """Return the format in which a template writes calls. `render`: by the template, with `probe_tools` at
    hand; `ends`: the words that end an answer. Raises NoCalls.
    """
    plain = _rendered(render, [], SAID)
    texts = [_rendered(render, [Call(FIRST, arguments)]) for arguments in PROBES]
    if not all(FIRST in text for text in texts):
        raise NoCalls("its chat template leaves the calls of an answer out")
    two, several = [Call(FIRST, PROBES[0]), Call(SECOND, PROBES[1])], ""
    with suppress(NoCalls):  # some take one call a turn
        several = _rendered(render, two)
    learner = _Learner(render, texts[0], plain, several, ends)
    found = next(filter(None, (read() for read in learner.styles)), None)
    if found is None:
        raise NoCalls("its chat template writes calls in a form that is not known here")
    tried = [*([Call(FIRST, arguments)] for arguments in (*PROBES, {})), *([two] if found.between else [])]
    for calls in tried:
        text = _rendered(render, calls)
        schemas = {call.name: _schema_of(call.arguments) for call in calls}
        if found.read(text[len(shared(text, plain)) :], schemas) != CallsRead(tuple(calls)):
            raise NoCalls("its chat template writes calls that cannot be read back")
    if found.read(SAID, {}) != CallsRead(()):
        raise NoCalls("its chat template writes a call as it writes any text")
    return found


def probe_tools() -> list[JsonObject]:
    """Return the tools that are called while a format is learned."""
    said = {"description": "It looks up.", "parameters": _schema_of(PROBES[0])}
    return [{"type": "function", "function": {"name": name, **said}} for name in (FIRST, SECOND)]


class _Learner:
    """Finds a format in the text of one call. `plain`: that of an answer without a call, `several`: of two
    calls, empty where there is none.
    """

    def __init__(self, render: Render, text: str, plain: str, several: str, ends: Sequence[str]) -> None:
        self.render, self.text, self.several = render, text, several
        self.begins = len(shared(text, plain))
        self.turn_end = plain.partition(SAID)[2]
        self.ends = tuple(dict.fromkeys(filter(None, (*ends, self.turn_end.strip()))))
        self.alpha, self.beta = (text.find(key, self.begins) for key in (ALPHA, BETA))
        # The name may stand before it, too: the last is that of the arguments.
        self.name = text.rfind(FIRST, self.begins, self.alpha if self.alpha >= 0 else None)
        self.after_name = self.name + len(FIRST)
        self.styles = (self.json_call, self.json, self.python, self.bare_keys, self.texts)

    def json_call(self) -> CallFormat | None:
        for value, start, end in objects_in(self.text, self.begins):
            names = [key for key, each in value.items() if each == FIRST]
            arguments = [key for key, each in value.items() if as_object(each) == PROBES[0]]
            if names and arguments:
                return self._format("json call", start, end, keys=(names[0], arguments[0]))
        return None

    def json(self) -> CallFormat | None:
        for value, start, end in objects_in(self.text, self.name):
            if value == PROBES[0]:
                after = self.text[self.after_name : start]
                return self._format("json", self.name, end, after_name=after)
        return None

    def python(self) -> CallFormat | None:
        with suppress(ValueError):
            arguments, end = python_arguments(self.text, self.after_name)
            if arguments == PROBES[0]:
                return self._format("python", self.name, end, after_name="(")
        return None

    def bare_keys(self) -> CallFormat | None:
        text, marked = self.text, f"{ALPHA}:"
        start, word = text.rfind("{", self.name, max(0, self.alpha)), text.find(WORD, self.alpha)
        end = text.find("}", word) + 1
        if start < 0 or word < 0 or not end or not text.startswith(marked, self.alpha):
            return None
        quotes = text[self.alpha + len(marked) : word], text[word + len(WORD) :].partition(",")[0]
        after = text[self.after_name : start]
        if not all(quotes):
            return None
        return self._format("bare keys", self.name, end, after_name=after, quotes=quotes)

    def texts(self) -> CallFormat | None:
        text = self.text
        first, second = text.find(WORD, self.alpha), text.find(str(NUMBER), self.beta)
        if not 0 <= self.name < self.alpha < first < self.beta < second:
            return None
        after_key = text[self.alpha + len(ALPHA) : first]
        after_name, behind = text[self.after_name : self.alpha], text[second + len(str(NUMBER)) :]
        none = _rendered(self.render, [Call(FIRST, {})]).rpartition(FIRST)[2]
        # What closes a call stands there with and without arguments; the end of the name's mark is no part.
        edge = re.match(r".*[>\s\])}]|", shared(none, after_name), re.DOTALL)
        closes = shared(none[0 if edge is None else edge.end() :][::-1], behind[::-1])[::-1]
        found = self._format("texts", self.name, len(text) - len(closes), after_name=after_name)
        return replace(
            found,
            after_key=after_key,
            after_value=text[first + len(WORD) : self.beta],
            after_all=behind.removesuffix(closes),
            empty=none.removesuffix(closes),
        )

    def _format(self, style: Style, start: int, end: int, **parts: Any) -> CallFormat:
        """Make the format of a call that stands from `start` to `end`."""
        opens = self.text[self.begins : start].rpartition(FIRST)[2]
        closes, thought = self._without_ends(self.text[end:]), self._thought_before(opens)
        said = _rendered(self.render, [Call(FIRST, PROBES[0])], SAID)
        behind = said.partition(self.text[start:end])[2]
        closes, found, _ = (closes, "", "") if SAID not in behind else behind.partition(SAID)
        return CallFormat(
            style, opens, self._between(start, end), closes, self.ends, thought, bool(found), **parts
        )

    def _between(self, start: int, end: int) -> str | None:
        """Return what stands between two calls, where the text of both begins as that of the one."""
        if not self.several.startswith(self.text[:end]):
            return None
        key = self.several.find(ALPHA, end)
        second = self.several.rfind(SECOND, end, max(0, key))
        before_name = self.text.find(FIRST, start) - start
        return self.several[end : second - before_name].replace(SECOND, OTHER_NAME) if second >= 0 else None

    def _without_ends(self, text: str) -> str:
        """Return what closes a call, without what ends an answer."""
        text = text.rstrip().removesuffix(self.turn_end.rstrip())
        while end := next(filter(text.rstrip().endswith, self.ends), ""):
            text = text.rstrip().removesuffix(end)
        return text

    def _thought_before(self, opens: str) -> tuple[str, str]:
        """Return the words around a thought, where the template writes one before a call."""
        thinks = {"reasoning_content": THOUGHT, "thinking": THOUGHT}
        with suppress(NoCalls):
            text = _rendered(self.render, [Call(FIRST, PROBES[0])], **thinks)
            before, found, after = text.rpartition(THOUGHT)
            if found:
                opened = before[len(shared(before, self.text[: self.begins])) :]
                if not opened.strip():  # an answer without a thought has an empty one
                    opened = before[before.rstrip().rfind("<") :]
                closed = after.partition(opens if opens.strip() else "\n\n")[0].partition(FIRST)[0]
                return opened.strip(), closed.strip()
        return "", ""


def _rendered(render: Render, calls: Sequence[Call], content: str = "", **more: str) -> str:
    """Render an answer to a question. Returns what follows the question. Raises NoCalls."""
    named = [probe_call(call.name, dict(call.arguments), number) for number, call in enumerate(calls)]
    said = {**({"tool_calls": named} if named else {}), **more}
    answer = Message("assistant", content, as_json(said) if said else "")
    try:
        return render([Message("user", ASKED), answer]).rpartition(ASKED)[2]
    except Exception as error:  # whatever a template can cause
        raise NoCalls(f"its chat template refuses a call ({type(error).__name__})") from None


def _schema_of(arguments: Mapping[str, Any]) -> JsonObject:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
    said = {key: {"type": kinds[type(each)], "description": "It says."} for key, each in arguments.items()}
    return {"type": "object", "properties": said}
