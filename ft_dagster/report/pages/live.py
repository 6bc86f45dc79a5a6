"""Writes the pages that `ft-dagster ui` serves beside Dagster's: the fleet, a variant, the audit's questions.

All text is escaped. The one script refreshes a page and fills in commands; without it the pages say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ft_dagster.report.pages.html import script_hash, template

ROOT = "/fleet"  # below the address of `ft-dagster ui`
SECONDS = 10  # between two looks of an open page
SCRIPT = Path(__file__).with_name("live.js")
TEMPLATE = "live.html.jinja"
POLICY = (  # of these pages: nothing from elsewhere, no frame around them, no script but their own
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; script-src 'sha256-{}'"
)


class Link(NamedTuple):
    """Leads somewhere. `on`: whether it leads to what is shown."""

    shown: str
    to: str
    on: bool = False


class LiveCell(NamedTuple):
    """Is a cell of a table. `kind`: bad, warn or good, for its colour, or code; `more`: a second line."""

    shown: str
    to: str = ""
    kind: str = ""
    more: str = ""


class LiveTable(NamedTuple):
    """Is a table; `none`: the sentence in its place where it has no row."""

    headers: Sequence[str | Link]
    rows: Sequence[Sequence[str | LiveCell]]
    none: str = ""
    caption: str = ""


class LivePart(NamedTuple):
    """Is a part of a page: sentences, links, then tables, then commands to copy, each with what it does."""

    title: str
    said: Sequence[str] = ()
    links: Sequence[Link] = ()
    tables: Sequence[LiveTable] = ()
    commands: Sequence[tuple[str, str]] = ()


class Choice(NamedTuple):
    """Is a list to choose from in the form that filters; "" is the first of it, which chooses all."""

    name: str
    every: str
    values: Sequence[str]
    chosen: str


class LiveFilters(NamedTuple):
    """Is the form that filters. `searched`: what is looked for; `kept`: what else the address says."""

    searched: str
    choices: Sequence[Choice]
    kept: Sequence[tuple[str, str]] = ()


class Question(NamedTuple):
    """Is a question about what an auditor types. `command`: with a place {} for that, which is quoted for a
    shell; `answers`: what it prints; `lines`: as high as the field is.
    """

    asked: str
    example: str
    lines: int
    answers: str
    command: str


class LivePage(NamedTuple):
    """Is a page. `problems`: what could not be read, a line each; `seconds`: after which it is read again, 0:
    never.
    """

    title: str
    said: str
    menu: Sequence[Link]
    parts: Sequence[LivePart]
    problems: Sequence[str] = ()
    filters: LiveFilters | None = None
    questions: Sequence[Question] = ()
    state: LiveCell | None = None
    seconds: int = 0


def menu(at: str) -> list[Link]:
    """Return what leads from each page to the others; `at`: the one that is shown."""
    own = [Link("Fleet", ROOT, at == ROOT), Link("Audit", f"{ROOT}/audit", at == f"{ROOT}/audit")]
    dagsters = (("Lineage", "/asset-groups"), ("Runs", "/runs"), ("Dagster", "/overview"))
    return [*own, *(Link(name, to) for name, to in dagsters)]


def script() -> str:
    return SCRIPT.read_text("utf-8")


def policy() -> str:
    """Return the Content-Security-Policy of these pages."""
    return POLICY.format(script_hash(script()))


def as_live_html(page: LivePage) -> str:
    return template(TEMPLATE).render(page=page, script=script())
