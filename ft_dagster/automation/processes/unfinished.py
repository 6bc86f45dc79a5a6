"""Finds what an instance still has to do: runs that wait, and for what, whose process lives, and that Dagster
will run again.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ft_dagster.automation.clusters.waiting import why_job_waits
from ft_dagster.automation.patience import START_SECONDS
from ft_dagster.automation.run_launcher import process_of
from ft_dagster.automation.tags import TENANT, VARIANT
from ft_dagster.dagster_private import (
    BACKFILL,
    BULK_ACTION_TERMINAL_STATUSES,
    RETRIED_BY,
    SCHEDULE,
    SENSOR,
    WILL_RETRY,
)

WAITING = [dg.DagsterRunStatus.QUEUED]
IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
MOST_FAILURES = 5_000  # that the daemon has not come to: it goes through a hundred a second
MOST_NAMED = 200  # runs that have ended, of which one is found by the beginning of its id
# By which Dagster's daemon remembers up to which failure it decided on retries.
CURSOR = f"EVENT_LOG_CONSUMER_CURSOR-{dg.DagsterEventType.RUN_FAILURE.value}"


def is_retried(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether Dagster's daemon has run a killed run again, or is about to."""
    if not _may_be_retried(instance, run):
        return False
    return RETRIED_BY in run.tags or _is_to_be_retried(instance, run)


def awaits_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether the daemon is about to run it again, and has not yet."""
    return RETRIED_BY not in run.tags and is_retried(instance, run)


def _may_be_retried(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    undecided = str(instance.run_retries_enabled).lower()  # Dagster tags it a moment after it failed
    return run.status == dg.DagsterRunStatus.FAILURE and run.tags.get(WILL_RETRY, undecided) == "true"


def _is_to_be_retried(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether the daemon will come to the run: it goes through failures in their order, and leaves the
    tag that says it will where it then finds no way to, or runs none again any more.
    """
    if not instance.run_retries_enabled or _left_by_its_backfill(instance, run):
        return False
    if run.run_id in failures_to_come(instance):
        return True
    now = instance.get_run_by_id(run.run_id)  # it may have come to this one since the run was read
    return now is not None and RETRIED_BY in now.tags


def failures_to_come(instance: dg.DagsterInstance) -> set[str]:
    """Return the ids of the runs that failed, and that the daemon has not come to yet to decide on a retry.
    What failed before any daemon was there is passed over.
    """
    cursor = instance.daemon_cursor_storage.get_cursor_values({CURSOR}).get(CURSOR)
    if cursor is None:
        return set()
    logs = instance.event_log_storage.get_logs_for_all_runs_by_log_id(
        after_cursor=int(cursor), dagster_event_type=dg.DagsterEventType.RUN_FAILURE, limit=MOST_FAILURES
    )
    return {entry.run_id for entry in logs.values()}


def come_to_each_failure(instance: dg.DagsterInstance) -> None:
    """Let a daemon that starts now, the first of its instance, pass over no run that fails meanwhile."""
    if instance.daemon_cursor_storage.get_cursor_values({CURSOR}).get(CURSOR) is None:
        newest = instance.event_log_storage.get_maximum_record_id() or 0
        instance.daemon_cursor_storage.set_cursor_values({CURSOR: str(newest)})


def _left_by_its_backfill(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether the run's backfill has ended or is gone: Dagster runs none of it again, and leaves the tag
    that says it will.
    """
    if (of := run.tags.get(BACKFILL)) is None:
        return False
    backfill = instance.get_backfill(of)
    return backfill is None or backfill.status in BULK_ACTION_TERMINAL_STATUSES


def run_named(instance: dg.DagsterInstance, name: str) -> dg.DagsterRun | None:
    """Return the run whose id is given, or alone begins so among those that have not ended and the newest."""
    if (exact := instance.get_run_by_id(name)) is not None:
        return exact
    going = dg.RunsFilter(statuses=[*WAITING, *IN_PROGRESS])
    runs = [*instance.get_runs(going), *instance.get_runs(limit=MOST_NAMED)]
    found = {run.run_id: run for run in runs if run.run_id.startswith(name)}
    return next(iter(found.values())) if len(found) == 1 else None


def in_progress(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """Return the runs that take a place of the queue now, whoever submitted them."""
    return instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS))


def waits_for(instance: dg.DagsterInstance, run: dg.DagsterRun, going: Sequence[dg.DagsterRun]) -> str:
    """Say what a run waits for: a queued one by the limits of the instance's queue, one that is starting by
    what its cluster says of its job. `going`: see `in_progress`.
    """
    if run.status in IN_PROGRESS:
        return why_job_waits(instance, run) if run.status == dg.DagsterRunStatus.STARTING else ""
    queue = instance.get_concurrency_config().run_queue_config
    limits = {} if queue is None else _limits_of_tags(queue.tag_concurrency_limits)
    same = _beside(run, going, VARIANT)
    if len(same) >= limits.get(VARIANT, math.inf):
        return f"waits for run {same[0].run_id[:8]} of this variant to end"
    others, most = _beside(run, going, TENANT), limits.get(TENANT, math.inf)
    if len(others) >= most:
        names = sorted({each.tags.get(VARIANT) or each.run_id[:8] for each in others})
        return f"waits for {' or '.join(names)} to end (the queue admits {most} of this tenant)"
    if queue is not None and 0 <= queue.max_concurrent_runs <= len(going):
        return f"waits for one of {len(going):,} runs to end"
    return "waits for the daemon to start it"


def _limits_of_tags(limits: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many runs with one value of a tag may be in progress, whatever the value is."""
    each = (one for one in limits if isinstance(one.get("value"), dict))
    return {one["key"]: one["limit"] for one in each}


def _beside(run: dg.DagsterRun, going: Sequence[dg.DagsterRun], tag: str) -> list[dg.DagsterRun]:
    """Return the runs in progress that have the same value of a tag; none of a run without it."""
    value = run.tags.get(tag)
    return [each for each in going if value is not None and each.tags.get(tag) == value]


@dataclass(frozen=True)
class UnfinishedWork:
    """Holds the ids of the runs that need a daemon: `waiting` to be launched, `active` to be watched or run
    again.
    """

    waiting: frozenset[str]
    active: frozenset[str]


def work_left(instance: dg.DagsterInstance, before: float | None = None) -> UnfinishedWork:
    """Return what a daemon has to do on this host.

    Where `before` (seconds since 1970) is given, what schedule and sensors submitted after it does not count.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=[*WAITING, *IN_PROGRESS]))
    asked = [record for record in records if not _automatic(record, before)]
    failed = failures_to_come(instance)
    runs = instance.get_runs(dg.RunsFilter(run_ids=sorted(failed))) if failed else []
    again = [run.run_id for run in runs if awaits_retry(instance, run)]
    waiting = [r.dagster_run.run_id for r in asked if r.dagster_run.status in WAITING]
    progress = [r for r in asked if r.dagster_run.status in IN_PROGRESS]
    alive = [record.dagster_run.run_id for record in progress if _needs_daemon(instance, record)]
    return UnfinishedWork(frozenset(waiting), frozenset([*alive, *again]))


def _needs_daemon(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Say whether the process of a run in progress lives on this host, or may still be on its way."""
    state = process_of(instance, record.dagster_run.run_id).state
    young = time.time() - record.update_timestamp.timestamp() < START_SECONDS
    return state == "lives" or (state == "untold" and young)


def _automatic(record: dg.RunRecord, after: float | None) -> bool:
    if after is None or record.create_timestamp.timestamp() <= after:
        return False
    tags = record.dagster_run.tags
    return SCHEDULE in tags or SENSOR in tags
