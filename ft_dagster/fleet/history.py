"""What a variant's runs say of it, whoever asked for them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple

RunOutcome = Literal["unfinished", "verdict", "failed"]
MOST_RUNS = 20  # of one variant that are looked at, the newest


class PastRun(NamedTuple):
    """`outcome`: verdict where it came to one, whether the gate held or not, or a person ended it; `asked`:
    the stamp it was asked for by; `why`: of one that failed.
    """

    started: datetime
    outcome: RunOutcome
    ended: datetime | None = None
    asked: str | None = None
    why: str = ""


class RunHistory(NamedTuple):
    """See `reasons.VariantState`, whose fields these are."""

    served: datetime | None = None
    running: bool = False
    failures: int = 0
    failed_at: datetime | None = None
    failure: str = ""
    asked: tuple[str, ...] = ()


def history(newest_first: Iterable[PastRun], edited: datetime) -> RunHistory:
    """What follows from a variant's runs and nothing else, so that it may be asked again and again.

    What failed before its declaration was `edited` is forgiven.
    """
    runs = list(newest_first)[:MOST_RUNS]
    failed: list[PastRun] = []
    served = None
    for run in runs:
        if run.outcome == "verdict":
            served = run.started
            break
        if run.outcome == "failed" and run.started > edited:
            failed.append(run)
    last = failed[0] if failed else None
    return RunHistory(
        served,
        any(run.outcome == "unfinished" for run in runs),
        len(failed),
        None if last is None else last.ended or last.started,
        "" if last is None else last.why,
        tuple(run.asked for run in runs if run.asked is not None),
    )
