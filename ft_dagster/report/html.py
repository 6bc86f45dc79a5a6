"""Writes a report as one HTML file: nothing from a network, light and dark, printed as it stands. Its one
script sorts tables, where there is one to sort; without it they stand as they were given.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.gate.verdict_words import verdict_sentence, verdict_word
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.tables import breakable, cell

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("report.html.jinja")
SORTING = Path(__file__).with_name("sorting.js")


class SortedCell(NamedTuple):
    """Is a cell that is sorted by another value than it shows; None, and what is no number, come last."""

    shown: str
    by: float | None

    def __str__(self) -> str:
        return self.shown


class HtmlTable(NamedTuple):
    """Is a table with what it shows; cells as `tables.cell` writes them. `sortable`: by a click on a
    header.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    sortable: bool = False


class Section(NamedTuple):
    """Is a part of a report: paragraphs, then a chart (SVG of `charts`), then tables that have rows, then
    text as it is.
    """

    title: str
    paragraphs: Sequence[str] = ()
    chart: str = ""
    tables: Sequence[HtmlTable] = ()
    verbatim: str = ""


class VerdictBox(NamedTuple):
    """Shows a verdict in one sentence. `word`: passed, undecided or failed, by which it is coloured; `on`:
    what it is on, where a page has several.
    """

    word: str
    sentence: str
    on: str = ""

    @classmethod
    def of(cls, verdict: Verdict, on: str = "") -> VerdictBox:
        word = "undecided" if verdict.outcome == "undecided" else verdict_word(verdict)
        return cls(word, verdict_sentence(verdict), on)


class Report(NamedTuple):
    """Holds a report. `facts`: name and value, in the head of the page."""

    title: str
    description: str
    facts: Sequence[tuple[str, str]]
    verdicts: Sequence[VerdictBox]
    sections: Sequence[Section]

    @property
    def sortable(self) -> bool:
        return any(table.sortable for section in self.sections for table in section.tables)


def as_html(report: Report) -> str:
    """Write the page: all text is escaped; charts alone are taken as they are."""
    script = SORTING.read_text("utf-8") if report.sortable else ""
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return _template().render(
        report=report, cell=cell, breakable=breakable, by=_sorted_by, script=script, allowed=allowed
    )


def _sorted_by(value: Any) -> str:
    """Return what a cell is sorted by: a number, or its text."""
    if isinstance(value, SortedCell):
        return "" if value.by is None or not math.isfinite(value.by) else str(value.by)
    return "" if value is None else str(value)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(TEMPLATE.read_text("utf-8"))
