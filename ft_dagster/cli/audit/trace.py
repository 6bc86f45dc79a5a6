"""Defines the command `trace`: what a version was made of, from the files of rows on, and which rows it
learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft_dagster.cli.audit.questions import RecordCounts, ask, write_records, written_sentence
from ft_dagster.cli.commands import app
from ft_dagster.cli.common import RELEASING, Json, Key, load_settings, print_json, show_rows, tell
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import FINE_TUNED_MODEL


@app.command(rich_help_panel=RELEASING)
def trace(
    context: typer.Context,
    variant: Key,
    version: Annotated[
        int | None,
        typer.Option(
            help="Which version; the newest unless given, or the newest evaluation if there is none"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="Write the rows it was trained on to this file, with source file and line, one JSON a line",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a version was made of: files with digest, rows and licence, mixture, plan, run, evaluation.

    Only manifests are read. `audit` goes further: from a record to its models, with proofs.
    """
    from ft_dagster.gate.verdict_words import verdict_sentence
    from ft_dagster.report.tables.lineage_rows import MADE_OF, made_rows
    from ft_dagster.versions.version_files import open_version

    stored = open_version(load_settings(context.obj), VariantKey.parse(variant), version)
    rows = made_rows(stored.made.files, stored.made.artifacts, stored.entry)
    weights, sentence = stored.artifact(FINE_TUNED_MODEL.name).digest, verdict_sentence(stored.verdict)
    rows_of = RecordCounts()
    if to is not None:
        name = str(stored.key)
        rows_of = ask(context, None, lambda audit: write_records(audit, name, weights, to))
    if as_json:
        counts = {"records": rows_of.records, "without_text": rows_of.without, "in_part": rows_of.in_part}
        written = None if to is None else {"file": str(to), **counts}
        print_json({
            "variant": variant, "of": stored.name, "weights": weights, "verdict": sentence,
            "made_of": [row._asdict() for row in rows], "rows": written,
        })  # fmt: skip
        return
    show_rows(MADE_OF, rows, stored.name)
    tell(f"verdict: {sentence}")
    if to is not None:
        tell(written_sentence(rows_of, to))
