"""Ends a chat template that does not end: it comes with a base, and may compute whatever it likes.

A rendering takes part of a millisecond. A template has at most `SECONDS` of its thread's time, of which each
rendering gives `EACH` back. Another thread looks at the clock while one is at work, and raises `OutOfTime` in
it. An operation that Python does in one step ends first. A power may take hours, and one of constants is
computed as the template is read: a power of other than small constants is refused.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from ft_dagster.errors import UserError

SECONDS, EACH = 10.0, 0.1  # of CPU time where the system tells another thread's, else by the clock
SMALL = 1000  # of a power's two parts
WAY_OUT = "Use a base whose template ends, or put chat_template.jinja beside its tokenizer"
TICK = 0.25  # seconds between two looks
T = TypeVar("T")


class OutOfTime(BaseException):
    """Signals that a template's time is over; none that code of a template could catch."""


class EndlessTemplate(UserError):
    """Says that a base's template does not end."""


@dataclass
class _Account:
    """Holds the seconds that a template has left. `has_power`: it may not begin."""

    left: float
    has_power: bool = False


class _Watch:
    """Watches the threads that render, by the moment of their own clock at which they are to end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ends: dict[int, float] = {}
        self.looks = False

    def begin(self, thread: int, end: float) -> None:
        with self.lock:
            self.ends[thread] = end
            if not self.looks:
                self.looks = True
                threading.Thread(target=self._look, daemon=True, name="template time limit").start()

    def end(self, thread: int) -> None:
        with self.lock:
            raised = self.ends.pop(thread, None) is None
        if raised:
            _let_it_arrive(thread)

    def _look(self) -> None:
        while True:
            time.sleep(TICK)
            with self.lock:
                if not self.ends:
                    self.looks = False
                    return
                for thread in [each for each, end in self.ends.items() if _time_of(each) > end]:
                    del self.ends[thread]
                    _raise_in(thread, OutOfTime)


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.__init__)  # type: ignore[misc]  # a fork has no thread that looks


def in_time(tokenizer: Any, rendering: Callable[[], T], renderings: int = 1) -> T:
    """Return what `rendering` makes by the template of a tokenizer; within another one it is part of that.
    Raises EndlessTemplate where it takes all that the template has left.
    """
    thread = threading.get_ident()
    if thread in _watch.ends:
        return rendering()
    account = _account(str(tokenizer.chat_template))
    if account.has_power:
        raise EndlessTemplate(
            "the base's chat template computes a power (**), whose time nothing bounds",
            file=tokenizer.name_or_path,
            field="chat_template",
            fix=WAY_OUT,
        )
    account.left = min(account.left, SECONDS) + EACH * renderings
    begun = _time_of(thread)
    try:
        _watch.begin(thread, begun + account.left)
        try:
            return rendering()
        finally:
            account.left -= _time_of(thread) - begun
            _watch.end(thread)
    except OutOfTime:
        raise EndlessTemplate(
            f"the base's chat template takes more than {SECONDS:g} seconds, and does not seem to end",
            file=tokenizer.name_or_path,
            field="chat_template",
            fix=WAY_OUT,
        ) from None


@lru_cache(maxsize=256)
def _account(template: str) -> _Account:
    return _Account(SECONDS, _has_power(template))


def _has_power(template: str) -> bool:
    """Say whether a template computes a power of other than small constants; one that cannot be parsed is
    refused where it is rendered.
    """
    if "**" not in template:
        return False
    from jinja2 import Environment, TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        """Reads transformers' own tag, which marks an answer."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        parsed = Environment(extensions=[Generation, "jinja2.ext.loopcontrols"]).parse(template)
    except TemplateError:
        return False
    return not all(_is_small(each.left) and _is_small(each.right) for each in parsed.find_all(nodes.Pow))


def _is_small(node: Any) -> bool:
    """Say whether a part of a power is a number that keeps it small."""
    return isinstance(getattr(node, "value", None), int | float) and abs(node.value) <= SMALL


def _time_of(thread: int) -> float:
    """Return the CPU seconds of a thread that is at work."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic()
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _raise_in(thread: int, error: type[BaseException]) -> None:
    """Raise `error` in a thread at its next step, instead of what was raised so and has not arrived."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def _let_it_arrive(thread: int) -> None:
    """Take back what was raised in the thread that calls, whether it arrived or not: it is raised once more,
    and arrives here. To put None in its place leaves CPython a flag that nothing clears: each step of the
    process is slower from then on, and a function that is traced does not begin.
    """
    with suppress(OutOfTime):
        _raise_in(thread, OutOfTime)
        while True:
            pass
