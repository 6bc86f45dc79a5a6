"""A report as one HTML file: no script, nothing from a network, light and dark, printed as it stands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.report.tables import breakable, cell

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("report.html.jinja")


class HtmlTable(NamedTuple):
    """A table with what it shows; cells as `tables.cell` writes them."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Section(NamedTuple):
    """A part of a report: paragraphs, then a chart (SVG of `charts`), then tables that have rows, then text
    as it is.
    """

    title: str
    paragraphs: Sequence[str] = ()
    chart: str = ""
    tables: Sequence[HtmlTable] = ()
    verbatim: str = ""


class Report(NamedTuple):
    """`facts`: name and value, in the head of the page; `verdict`: in one sentence; `word`: of it."""

    title: str
    description: str
    facts: Sequence[tuple[str, str]]
    word: str
    verdict: str
    sections: Sequence[Section]


def as_html(report: Report) -> str:
    """All text is escaped; charts alone are taken as they are."""
    return _template().render(report=report, cell=cell, breakable=breakable)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(TEMPLATE.read_text("utf-8"))
