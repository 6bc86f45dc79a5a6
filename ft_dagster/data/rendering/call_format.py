"""Reads the calls of tools in an answer, in the format in which a chat template writes them.

transformers' `parse_response` is not used. It needs a `response_template`, which few bases have, and TRL's
are chosen by the whole text of a template. It also takes a call for a good one that breaks off, or that other
words stand behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ft_dagster.data.rendering.call_values import as_object, as_typed, bare_as_json, json_at, python_arguments
from ft_dagster.strict_json import JsonObject

Style = Literal["json call", "json", "python", "bare keys", "texts"]
OTHER_NAME = "\0"  # within words of a format: a tool's name that stands there too
_NAME = r"[^\s\"'`<>(){}\[\]|=,]+"


class Call(NamedTuple):
    """Is one call: the tool's name, and its arguments by name."""

    name: str
    arguments: JsonObject


class CallsRead(NamedTuple):
    """Holds the calls of an answer; `broken`: it begins one that cannot be read, and then there are none."""

    calls: tuple[Call, ...]
    broken: bool = False


@dataclass(frozen=True)
class CallFormat:
    """Describes how a template writes calls. `opens`: what stands before the first, `between` two (None: one
    alone can be written), and `closes` after the last. `ends`: words that end an answer. `thought`: the words
    around a thought, which calls nothing. `says_behind`: what an answer says beside its calls stands after
    them.

    `style`: a call is one object of JSON, with the `keys` of its name and its arguments; or a name with an
    object of JSON, with one whose keys are bare and whose texts stand between `quotes`, or with arguments as
    Python has them; or each argument is a text between marks. `after_name`: what stands between a name and
    its arguments. Of arguments between marks: `after_key`, `after_value`, `after_all`, and `empty`, which
    stands after the name where there are none.
    """

    style: Style
    opens: str
    between: str | None
    closes: str
    ends: tuple[str, ...] = ()
    thought: tuple[str, str] = ("", "")
    says_behind: bool = False
    keys: tuple[str, str] = ("", "")
    quotes: tuple[str, str] = ("", "")
    after_name: str = ""
    after_key: str = ""
    after_value: str = ""
    after_all: str = ""
    empty: str = ""

    def read(self, answer: str, schemas: Mapping[str, Any], *, after: str = "") -> CallsRead:
        """Return the calls of a whole answer, its special tokens as they are written. `schemas`: of each tool
        the JSON schema of its arguments, by which a text is told from a number where the format does not.
        `after`: the prompt that it answers, which may have begun a thought.
        """
        text = self._without_thought(answer, after)
        begun = self._begun(text)
        if begun is None:
            return CallsRead(())
        text = text[begun:]
        if self.style == "bare keys":
            text = bare_as_json(text, self.quotes)
        try:
            return CallsRead(tuple(self._calls(text, schemas)))
        except (ValueError, RecursionError):
            return CallsRead((), broken=True)

    def _begun(self, text: str) -> int | None:
        """Return where the first call begins, after what opens it; None where none does."""
        if self.opens.strip():
            found = re.search(_loose(self.opens).removeprefix(r"\s*"), text)
            return None if found is None else found.end()
        begins = rf"\s*{_NAME}?{_loose(self.after_name)}"
        if self.style == "json call":
            begins = rf'\s*\{{\s*"(?:{"|".join(map(re.escape, self.keys))})"\s*:'
        return 0 if re.match(begins, text) else None

    def _without_thought(self, answer: str, prompt: str) -> str:
        opened, closed = self.thought
        if not closed:
            return answer
        before, found, after = answer.partition(closed)
        thinks = bool(opened) and (answer.lstrip().startswith(opened) or prompt.rstrip().endswith(opened))
        if not found:
            return "" if thinks else answer
        return after if thinks or self._begun(before) is None else answer

    def _calls(self, text: str, schemas: Mapping[str, Any]) -> Iterator[Call]:
        """Yield the calls. Raises ValueError where they break off, or other words stand between or behind."""
        at = 0
        while True:
            call, at = self._call(text, at, schemas)
            yield call
            if self._is_over(text, at):
                return
            if self.between is None:
                raise ValueError("more than a call")
            at = _after(self.between, text, at)

    def _is_over(self, text: str, at: int) -> bool:
        found = re.compile(_loose(self.closes)).match(text, at)
        if found is None:
            return False
        if self.says_behind:
            return self.between is None or re.compile(_loose(self.between)).match(text, at) is None
        rest = text[found.end() :].strip()
        while rest and (end := next(filter(rest.startswith, self.ends), "")):
            rest = rest.removeprefix(end).strip()
        return not rest

    def _call(self, text: str, at: int, schemas: Mapping[str, Any]) -> tuple[Call, int]:
        if self.style == "json call":
            value, at = json_at(text, at)
            name, arguments = (value.get(key) for key in self.keys)
            arguments = as_object(arguments)
            if not isinstance(name, str) or not isinstance(arguments, dict):
                raise ValueError("no call")
            return Call(name, arguments), at
        found = self._name.match(text, at)
        if found is None:
            raise ValueError("no name")
        name, at = found[1], found.end()
        if self.style == "python":
            arguments, at = python_arguments(text, at)
        elif self.style == "texts":
            arguments, at = self._texts(text, at, schemas.get(name))
        else:
            arguments, at = json_at(text, _after(self.after_name, text, at))
        return Call(name, arguments), at

    @property
    def _name(self) -> re.Pattern[str]:
        """Return a pattern of a name, up to what follows one."""
        follows = [self.after_name]
        if self.style == "texts":
            follows += [self.empty + closes for closes in (self.closes, self.between or self.closes)]
        words = "|".join(_loose(each) for each in follows if each.strip())
        return re.compile(rf"\s*({_NAME}?)(?={words})" if words else rf"\s*({_NAME})")

    def _texts(self, text: str, at: int, schema: Any) -> tuple[JsonObject, int]:
        """Read arguments that are each a text between marks."""
        arguments: JsonObject = {}
        begun = re.compile(_loose(self.after_name)).match(text, at)
        if begun is None:
            return arguments, _after(self.empty, text, at)
        key, more, over = map(_around_a_text, (self.after_key, self.after_value, self.after_all))
        each = re.compile(rf"([^\n<>]*?){key}(.*?)(?:({more})|{over})", re.DOTALL)
        at = begun.end()
        while True:
            found = each.match(text, at)
            if found is None or found[1] in arguments:
                raise ValueError("no argument")
            arguments[found[1]] = as_typed(found[2], schema, found[1])
            at = found.end()
            if found[3] is None:
                return arguments, at


def _loose(words: str) -> str:
    """Return a pattern of words that may be spaced otherwise."""
    pattern = r"\s*" + r"\s*".join(map(re.escape, words.split())) + (r"\s*" if words.strip() else "")
    return pattern.replace(re.escape(OTHER_NAME), _NAME)


def _around_a_text(words: str) -> str:
    """Return a pattern of words beside a text, whose own white space is kept but for that of the template."""
    before, after = words[: len(words) - len(words.lstrip())], words[len(words.rstrip()) :]
    inner = r"\s*".join(map(re.escape, words.split()))
    return f"(?:{re.escape(before)})?{inner}(?:{re.escape(after)})?"


def _after(words: str, text: str, at: int) -> int:
    found = re.compile(_loose(words)).match(text, at)
    if found is None:
        raise ValueError("broken off")
    return found.end()
