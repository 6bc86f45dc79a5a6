"""Ends a chat template that does not end: it comes with a base, and may compute whatever it likes.

A rendering takes part of a millisecond. See `data/files/time_limit.py`. A power may take hours, and one of
constants is computed as the template is read: a power of other than small constants is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from ft_dagster.data.files import time_limit
from ft_dagster.data.files.time_limit import Account, OutOfTime, is_watched, within
from ft_dagster.errors import UserError

SMALL = 1000  # of a power's two parts
WAY_OUT = "Use a base whose template ends, or put chat_template.jinja beside its tokenizer"
T = TypeVar("T")


class EndlessTemplate(UserError):
    """Says that a base's template does not end."""


@dataclass
class _OfTemplate(Account):
    """Holds the seconds that a template has left. `has_power`: it may not begin."""

    has_power: bool = False


def in_time(tokenizer: Any, rendering: Callable[[], T], renderings: int = 1) -> T:
    """Return what `rendering` makes by the template of a tokenizer; within another one it is part of that.
    Raises EndlessTemplate where it takes all that the template has left.
    """
    if is_watched():
        return rendering()
    account = _account(str(tokenizer.chat_template))
    if account.has_power:
        raise EndlessTemplate(
            "the base's chat template computes a power (**), whose time nothing bounds",
            file=tokenizer.name_or_path,
            field="chat_template",
            fix=WAY_OUT,
        )
    try:
        return within(account, rendering, renderings)
    except OutOfTime:
        raise EndlessTemplate(
            f"the base's chat template takes more than {time_limit.SECONDS:g} seconds, and does not seem to "
            "end",
            file=tokenizer.name_or_path,
            field="chat_template",
            fix=WAY_OUT,
        ) from None


@lru_cache(maxsize=256)
def _account(template: str) -> _OfTemplate:
    return _OfTemplate(has_power=_has_power(template))


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
