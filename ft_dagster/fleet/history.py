"""Derives what a variant's runs say of it, whoever asked for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from ft_dagster.fleet.due.reasons import stamped_since

RunOutcome = Literal["unfinished", "success", "verdict", "failed"]
MOST_RUNS = 20  # of one variant that are read at once, the newest first


class PastRun(NamedTuple):
    """Describes a past run. `outcome`: success of the whole chain; verdict where a gate did not hold; failed
    also where a person cancelled it. `asked`: the stamp it was asked for by; `why`: of one that did not
    succeed.
    """

    started: datetime
    outcome: RunOutcome
    ended: datetime | None = None
    asked: str | None = None
    why: str = ""


class RunHistory(NamedTuple):
    """See `reasons.VariantState`, whose fields these are."""

    served: datetime | None = None
    renewed: datetime | None = None
    running: bool = False
    failures: int = 0
    failed_at: datetime | None = None
    failure: str = ""
    fruitless: int = 0
    fruitless_at: datetime | None = None
    asked: tuple[str, ...] = ()
    tries: tuple[str, ...] = ()


def history(newest_first: Iterable[PastRun], edited: datetime) -> RunHistory:
    """Return what follows from a variant's runs and nothing else, so that it may be asked again and again.

    What failed before its declaration was `edited` is forgiven: it counts as a try and not as a failure.
    """
    runs = list(newest_first)
    served = renewed = None
    failed, fruitless, tries = list[PastRun](), list[PastRun](), list[str]()
    for run in runs:
        if run.outcome == "unfinished":
            continue
        if run.outcome != "failed" and served is None:
            served = _read(run)
        if run.outcome == "success":
            renewed = _read(run)
            break
        if run.asked is not None:
            tries.append(run.asked)
        if run.started > edited:
            if run.outcome == "verdict":
                fruitless.append(run)
            elif served is None:
                failed.append(run)
    return RunHistory(
        served=served,
        renewed=renewed,
        running=any(run.outcome == "unfinished" for run in runs),
        failures=len(failed),
        failed_at=_ended(failed),
        failure=next((run.why for run in (*failed, *fruitless)), ""),
        fruitless=len(fruitless),
        fruitless_at=_ended(fruitless),
        asked=tuple(run.asked for run in runs if run.asked is not None),
        tries=tuple(tries),
    )


def _read(run: PastRun) -> datetime:
    """Return when a run began to read: not before the cause that it was asked for, whose time is by our
    clock. Its host's may be behind, and the cause would stand for ever, under a stamp that a run was asked
    for by.
    """
    since = None if run.asked is None else stamped_since(run.asked)
    return run.started if since is None else max(run.started, since)


def _ended(newest_first: Sequence[PastRun]) -> datetime | None:
    return (newest_first[0].ended or newest_first[0].started) if newest_first else None
