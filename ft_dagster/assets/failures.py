"""Turns errors into Dagster's failures, each with its one line; what a retry can mend is tried again.

Where Dagster's own database is away, the work goes on without its log; and a run of which a step could not be
reported is run again, which reuses what was made.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import dagster as dg
import sqlalchemy as sa
from dagster_shared.error import SerializableErrorInfo

from ft_dagster.assets.page import SUMMARY, run_link
from ft_dagster.dagster_private import RETRY_ON_STEP_FAILURE, DagsterUserCodeProcessError
from ft_dagster.errors import UserError
from ft_dagster.extras import left_out
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.report.figures import breakable
from ft_dagster.settings import Retries
from ft_dagster.store import closed, outage, refused, unreachable

FAILURE = "failure"  # metadata of a failure: what happened, what was kept, what to do
ASKED = "ft/retry_on_asset_or_op_failure"  # of a run: what was asked for of Dagster's tag of this name


class FailedInOneLine(dg.Failure, DagsterUserCodeProcessError):
    """Is a failure of which Dagster shows one line and no stack: what a person can mend is no bug of ours.

    Dagster shows an error of a process by what that process said of it, and here that is the line.
    """

    def __init__(self, line: str) -> None:
        said = SerializableErrorInfo(message=line, stack=[], cls_name=None)
        super(dg.Failure, self).__init__(line, user_code_process_error_infos=[said])  # type: ignore[no-untyped-call]
        metadata = {FAILURE: dg.MetadataValue.text(line)}
        self.__dict__.update(vars(dg.Failure(line, metadata=metadata, allow_retries=False)))


def unreported(error: BaseException | None) -> bool:
    """Say whether an error means that the database to which Dagster reports was away."""
    while error is not None:
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


@dg.failure_hook
def run_again_where_unreported(context: dg.HookContext) -> None:
    """Make Dagster run a run again of which a step failed: the instance's run_retries leave such runs out.
    Where another step fails in the second run, they do as before: as who started the first run asked by its
    tag, else as the instance says.
    """
    instance, run = context.instance, context.instance.get_run_by_id(context.run_id)
    tags = {} if run is None else run.tags
    built_in = str(instance.run_retries_retry_on_asset_or_op_failure).lower()
    asked = tags.get(ASKED, tags.get(RETRY_ON_STEP_FAILURE, built_in))
    if unreported(context.op_exception):
        instance.add_run_tags(context.run_id, {RETRY_ON_STEP_FAILURE: "true", ASKED: asked})
    elif ASKED in tags:
        instance.add_run_tags(context.run_id, {RETRY_ON_STEP_FAILURE: asked})


def saying(context: dg.AssetExecutionContext) -> Callable[[str], None]:
    """Writes a line into the run's log, where its database can be reached."""

    def say(line: str) -> None:
        try:
            context.log.info(line)
        except Exception as error:
            if not unreported(error):
                raise

    return say


class _InRunLog(logging.Handler):
    """Writes what the package warns of into the log of the run that it happens in."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; where that fails, as `logging` has it: the work goes on."""
        try:
            self._say(record.getMessage())
        except Exception:
            self.handleError(record)


@contextmanager
def _warnings_in_run_log(context: dg.AssetExecutionContext | None) -> Iterator[None]:
    if context is None:
        yield
        return
    package, handler = logging.getLogger(__package__.partition(".")[0]), _InRunLog(saying(context))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


@contextmanager
def failures(
    context: dg.AssetExecutionContext | None = None, retries: Callable[[], Retries] | None = None
) -> Iterator[None]:
    """Raise Dagster's Failure for what a person can mend, RetryRequested for what another try can.

    A RetryPolicy would also retry a cancel (dagster#15026), so each retry is asked for here.
    """
    try:
        with _warnings_in_run_log(context):
            yield
    except UserError as error:
        raise _failure(context, str(error)) from None
    except ModuleNotFoundError as error:
        known = left_out(error)
        if known is None:
            raise
        raise _failure(context, str(known)) from None
    except ProgramFailed as error:
        if not error.mendable or context is None or retries is None:
            raise _failure(context, str(error)) from None
        _try_again(context, retries(), str(error))
    except Exception as error:
        if (not_let_in := refused(error) or closed(error)) is not None:
            raise _failure(context, str(not_let_in)) from None
        if context is None or retries is None or not unreachable(error):
            raise
        away = outage(error)
        _try_again(context, retries(), away.statement, f". Kept: every artifact already made. {away.fix}")


def _try_again(context: dg.AssetExecutionContext, retries: Retries, line: str, fix: str = "") -> NoReturn:
    """Let Dagster run the step again after a while, or fail where that was done often enough. `fix`: the way
    out once nothing is tried any more.
    """
    tried = context.retry_number
    if tried >= retries.attempts:
        often = f" (given up after {tried + 1} tries)" if tried else ""
        raise _failure(context, f"{line}{often}{fix}") from None
    wait = retries.wait(tried)
    context.log.warning(f"{line}. Tried again in {wait:g} s ({tried + 1} of {retries.attempts})")
    raise dg.RetryRequested(max_retries=retries.attempts, seconds_to_wait=wait) from FailedInOneLine(line)


def _failure(context: dg.AssetExecutionContext | None, line: str) -> FailedInOneLine:
    """Return the failure, shown on the asset's page too: Dagster itself shows it in the run's log alone.

    Reported at once, since what a step logs of an asset is dropped where it fails.
    """
    if context is not None:
        said = f"**Failed:** {breakable(line)}\n\n{run_link(context.run_id).capitalize()}"
        for partition in _partitions(context):
            context.instance.report_runless_asset_event(
                dg.AssetObservation(
                    context.asset_key,
                    description=line,
                    partition=partition,
                    metadata={SUMMARY: dg.MetadataValue.md(said)},
                )
            )
    return FailedInOneLine(line)


def _partitions(context: dg.AssetExecutionContext) -> Sequence[str | None]:
    return context.partition_keys if context.has_partition_key else [None]
