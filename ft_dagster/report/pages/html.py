"""Writes a report as one HTML file: nothing from a network, light and dark, printed as it stands. Its one
script sorts tables, where there is one to sort; without it they stand as they were given.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.gate.verdict_words import verdict_sentence, verdict_word
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.figures import breakable, cell

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

CODE = re.compile(r"`([^`\n]+)`")
FOLDER = Path(__file__).parent
TEMPLATE, SORTING = "report.html.jinja", FOLDER / "sorting.js"


class SortedCell(NamedTuple):
    """Is a cell that is sorted by another value than it shows; None, and what is no number, come last."""

    shown: str
    by: float | None

    def __str__(self) -> str:
        return self.shown


class HtmlTable(NamedTuple):
    """Is a table with what it shows; cells as `figures.cell` writes them. `sortable`: by a click on a
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
    """Holds a report. `facts`: name and value, in the head of the page; `lead`: paragraphs below the
    verdicts.
    """

    title: str
    description: str
    facts: Sequence[tuple[str, str]]
    verdicts: Sequence[VerdictBox]
    sections: Sequence[Section]
    lead: Sequence[str] = ()

    @property
    def sortable(self) -> bool:
        return any(table.sortable for section in self.sections for table in section.tables)


def as_html(report: Report) -> str:
    """Write the page: all text is escaped; charts alone are taken as they are."""
    script = SORTING.read_text("utf-8") if report.sortable else ""
    return template(TEMPLATE).render(
        report=report, cell=cell, by=_sorted_by, script=script, allowed=script_hash(script)
    )


def script_hash(script: str) -> str:
    """Return what a page's policy names a script by, which it lets run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _sorted_by(value: Any) -> str:
    """Return what a cell is sorted by: a number, or its text."""
    if isinstance(value, SortedCell):
        return "" if value.by is None or not math.isfinite(value.by) else str(value.by)
    return "" if value is None else str(value)


def prose(text: str) -> Markup:
    """Return text as HTML: long words may be broken, and what stands between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(CODE.sub(r"<code>\1</code>", str(escape(breakable(text)))))


@cache
def template(name: str) -> Template:
    """Return a template of this folder: all text that it is given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(FOLDER),
    )
    made.globals |= {"breakable": breakable, "prose": prose}
    return made.get_template(name)
