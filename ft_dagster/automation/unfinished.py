"""What an instance still has to do: runs that wait, runs whose process lives, and runs whose process is gone.

Dagster calls a run STARTED until its process says otherwise, so a run that was killed together with its code
server would be STARTED for ever, and keep every later run of its variant in the queue. The processes tell.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.tags import (
    AUTO_RETRY_RUN_ID_TAG,
    BACKFILL_ID_TAG,
    SCHEDULE_NAME_TAG,
    SENSOR_NAME_TAG,
    WILL_RETRY_TAG,
)

WAITING = [dg.DagsterRunStatus.QUEUED]
IN_PROGRESS = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
START_SECONDS = 180  # Dagster's run monitoring ends a run that takes longer to start
RETRY_SECONDS = 120  # the daemon decides on a retry within seconds of a failure
NO_RETRY_SECONDS = 3600  # after which none comes: a daemon that could not make it forgets it silently
CLOCK_SECONDS = 2  # by which a process seems to be younger than what it said


def is_retried(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether Dagster's daemon has run a killed run again, or is about to."""
    if run.status != dg.DagsterRunStatus.FAILURE:
        return False
    undecided = str(instance.run_retries_enabled).lower()  # Dagster tags it a moment after it failed
    if run.tags.get(WILL_RETRY_TAG, undecided) != "true":
        return False
    if AUTO_RETRY_RUN_ID_TAG in run.tags:
        return True
    return not _left_by_its_backfill(instance, run) and not _ended_long_ago(instance, run)


def awaits_retry(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the daemon is about to run it again, and has not yet."""
    return AUTO_RETRY_RUN_ID_TAG not in run.tags and is_retried(instance, run)


def _ended_long_ago(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    record = instance.get_run_record_by_id(run.run_id)
    if record is None:
        return True
    ended = record.end_time or record.update_timestamp.replace(tzinfo=UTC).timestamp()
    return time.time() - ended > NO_RETRY_SECONDS


def _left_by_its_backfill(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Dagster runs none again whose backfill has ended or is gone, and leaves the tag that says it will."""
    if (of := run.tags.get(BACKFILL_ID_TAG)) is None:
        return False
    backfill = instance.get_backfill(of)
    return backfill is None or backfill.status in BULK_ACTION_TERMINAL_STATUSES


@dataclass(frozen=True)
class UnfinishedWork:
    """Ids of the runs that need a daemon: `waiting` to be launched, `active` to be watched or run again."""

    waiting: frozenset[str]
    active: frozenset[str]


def work_left(instance: dg.DagsterInstance, before: float | None = None) -> UnfinishedWork:
    """What a daemon has to do on this host.

    Where `before` (seconds since 1970) is given, what schedule and sensors submitted after it does not count.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=[*WAITING, *IN_PROGRESS]))
    asked = [record for record in records if not _automatic(record, before)]
    since = datetime.now(UTC) - timedelta(seconds=RETRY_SECONDS)
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    again = [run.run_id for run in instance.get_runs(failed) if awaits_retry(instance, run)]
    waiting = [r.dagster_run.run_id for r in asked if r.dagster_run.status in WAITING]
    progress = [r for r in asked if r.dagster_run.status in IN_PROGRESS]
    alive = [record.dagster_run.run_id for record in progress if lives(instance, record)]
    return UnfinishedWork(frozenset(waiting), frozenset([*alive, *again]))


def gone(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The runs in progress whose process has ended; none where other hosts may share the instance."""
    if not isinstance(instance.run_storage, SqliteRunStorage):
        return []
    records = instance.get_run_records(dg.RunsFilter(statuses=IN_PROGRESS))
    return [r.dagster_run for r in records if not lives(instance, r)]


def report_gone(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun]) -> None:
    """Mark as ended what no process can mark any more; Dagster runs a failed one again."""
    said = "No process of this run is left: it was killed together with its code server."
    for gone_run in runs:
        run = instance.get_run_by_id(gone_run.run_id)
        if run is None or run.status not in IN_PROGRESS:
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, said)
        else:
            instance.report_run_failed(run, said)


def lives(instance: dg.DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether the process of a run in progress lives on this host, or may still be on its way."""
    told = _process(instance, record.dagster_run.run_id)
    if told is None:
        return time.time() - record.update_timestamp.timestamp() < START_SECONDS
    return _is_alive(*told)


def _process(instance: dg.DagsterInstance, run_id: str) -> tuple[int, float] | None:
    """The pid that the run's process told last, and when (seconds since 1970)."""
    told = None
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        metadata = event.engine_event_data.metadata if event else {}
        if "pid" in metadata:
            told = int(str(metadata["pid"].value)), entry.timestamp
    return told


def _is_alive(pid: int, told: float) -> bool:
    """A process that is younger than what its pid told is another one."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < told + CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _automatic(record: dg.RunRecord, after: float | None) -> bool:
    if after is None or record.create_timestamp.timestamp() <= after:
        return False
    tags = record.dagster_run.tags
    return SCHEDULE_NAME_TAG in tags or SENSOR_NAME_TAG in tags
