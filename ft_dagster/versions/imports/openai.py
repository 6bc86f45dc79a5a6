"""Reads files of hosted fine-tuning: chat rows, preference pairs and jobs, told apart by what is in them."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_dagster.data.rows.sources import read_raw
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError
from ft_dagster.files import what_is_there
from ft_dagster.spec.data import SourceSpec
from ft_dagster.strict_json import JsonObject
from ft_dagster.versions.imports.ledger import Item, Ledger
from ft_dagster.versions.imports.openai_job import job_in, read_job
from ft_dagster.versions.imports.openai_rows import Noted, read_row
from ft_dagster.versions.imports.rules import no_rows
from ft_dagster.versions.imports.staged import Staged

LARGEST_JOB = 4_000_000  # bytes: a larger file holds rows
PAIRS = "preferences.jsonl"
TRAINED = "each answer is trained there, but those of weight 0"


def read_openai(files: Sequence[Path], staging: Path) -> tuple[Ledger, list[Staged]]:
    """Return what becomes of the fields of jobs and rows, and the files of rows, those that change written
    below `staging`. Raises UserError.
    """
    ledger, noted, staged, jobs = Ledger(), Counter[Noted](), list[Staged](), list[Path]()
    with open(staging / PAIRS, "w", encoding="utf-8") as pairs:
        for number, file in enumerate(files):
            job = _job(file)
            if job is None:
                staged.append(_rows(file, staging / f"{number}.jsonl", noted, pairs))
                continue
            jobs.append(file)
            if len(jobs) > 1:
                problem = f"a second job, beside {jobs[0]}"
                raise UserError(problem, file=file, fix="Import each job with its own rows as a variant")
            read_job(ledger, file, job)
        found = pairs.tell() > 0
    rows = [each for each in staged if each.rows]
    if not rows:
        raise no_rows(files[0], "Give a file of chat rows with answers, too (JSON lines with messages)")
    _count(ledger, noted, files[0])
    item = Item(rows[0].file, "rows.messages", None)
    ledger.declare(item, "data.train_on", "assistant_turns", TRAINED)
    if found:
        rows.append(Staged(staging / PAIRS, staging / PAIRS, 0))
    return ledger, rows


def _job(file: Path) -> JsonObject | None:
    """Return the job that a file holds as one JSON document; None where it holds rows."""
    if not file.is_file():
        problem = what_is_there(file, "file")
        raise UserError(problem, field="FILE", value=str(file), fix="Check the path of the file")
    try:
        if file.stat().st_size > LARGEST_JOB:
            return None
        content = json.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        fix = "Let the user that runs ft-dagster read it"
        raise UserError(f"cannot be read: {error.strerror}", file=file, fix=fix) from None
    except (ValueError, RecursionError):
        return None
    return content if job_in(content) else None


def _rows(file: Path, into: Path, noted: Counter[Noted], pairs: Any) -> Staged:
    """Read each row of a file; where one changes, or goes elsewhere, write those that are trained `into` a
    file.
    """
    kept, lines, same = 0, array("Q"), True
    source = SourceSpec(path=str(file.absolute()))
    with open(into, "w", encoding="utf-8") as written:
        for raw in read_raw(source, Path.cwd(), DeclaredAt(field="FILE")):
            read = read_row(raw, noted)
            same = same and read.row is not None and not read.changed
            if read.pair is not None:
                pairs.write(_line(raw, read.pair))
            if read.row is not None:
                kept += 1
                lines.append(raw.line)
                written.write(_line(raw, read.row))
    return Staged(file, None if same else into, kept, lines)


def _line(raw: Any, row: JsonObject) -> str:
    try:
        text = json.dumps(row, ensure_ascii=False) + "\n"
        text.encode()
    except UnicodeEncodeError:
        fix = "Remove the lone surrogate (a broken emoji, as a rule)"
        raise raw.error("malformed row: not valid Unicode", fix) from None
    except RecursionError:
        raise raw.error("malformed row: nested too deeply", "Put flatter objects there") from None
    return text


def _count(ledger: Ledger, noted: Counter[Noted], file: Path) -> None:
    for (kind, name, why), count in noted.items():
        ledger.count(kind, Item(file, name, None), why, count)
