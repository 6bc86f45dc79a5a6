"""What the erasure of rows takes, as `erase request` would look for it."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from ft_dagster.audit.erasure.dry_run import Asked, ErasureDryRun, Took, dry_run
from ft_dagster.audit.records import record
from ft_dagster.audit.sought_record import parse_record
from tests.audit.histories import History


def taken(made: History, *rows: Any, due: str = "2099-12-31") -> ErasureDryRun:
    """What the erasure of rows takes."""
    audit, asked = made.audit(), []
    for row in rows:
        one = parse_record(json.dumps(row), audit.readings())
        exact = tuple(each.hex() for each in one.exactly.identities)
        asked.append(Asked("a row", record(audit, one), exact))
    took = lambda artifacts: Took(1.0, 1.0, None)  # noqa: E731
    return dry_run(audit, asked, took, reason="art. 17", due=date.fromisoformat(due), due_by="x")
