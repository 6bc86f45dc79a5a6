"""Lays out the page on which an auditor asks, and finds the answers that were kept."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ft_dagster.audit.kept_answers import KeptAnswer
from ft_dagster.report.pages.live import (
    ROOT,
    SECONDS,
    LiveCell,
    LivePage,
    LivePart,
    LiveTable,
    Question,
    menu,
)

# An identity, of which a line has room for the beginning.
LONG_HEX = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{13,}")


def audit_page(tool: str, kept: Sequence[KeptAnswer]) -> LivePage:
    """Return the page of an auditor: what is typed becomes a command, whose answer is listed here."""
    rows: list[Sequence[str | LiveCell]] = [
        [
            LiveCell(f"{one.at:%Y-%m-%d %H:%M:%S}", f"{ROOT}/audit/{one.name}"),
            f"audit {one.question}",
            LONG_HEX.sub(r"\1…", one.of),
        ]
        for one in kept
    ]
    said = (
        "Type a question and run the command below it in a terminal: this page sends nothing anywhere. "
        "With --save the answer is kept as a page on this host and listed below; it names records by their "
        "identity, not their text."
    )
    none = "No answer was kept yet."
    tables = [LiveTable(("asked (UTC)", "question", "about"), rows, none)]
    whole = "This hashes all artifacts again, and checks record trees, ledgers and release logs:"
    at = "Replace VARIANT by the variant, and DATE by a day such as 2026-11-03:"
    return LivePage(
        "Audit",
        said,
        menu(f"{ROOT}/audit"),
        [
            LivePart(
                "Which data made what was in production on a date?",
                commands=[(at, f"{tool} audit at VARIANT DATE --save")],
            ),
            LivePart("Does all of it still hold?", commands=[(whole, f"{tool} audit verify --all --save")]),
            LivePart("Answers that were kept", tables=tables),
        ],
        questions=[
            Question(
                "Which models learned from this record?",
                "A text, a row as JSON, or an identity (64 hexadecimal digits)",
                3,
                "Every data set, model, export and release that has it:",
                f"{tool} audit record --save -- {{}}",
            ),
            Question(
                "What made this model?",
                "tenant.variant, tenant.variant@2, or the beginning of a digest",
                1,
                "Its sources, base, recipe, code, verdict and releases:",
                f"{tool} audit model --save -- {{}}",
            ),
        ],
        seconds=SECONDS,
    )
