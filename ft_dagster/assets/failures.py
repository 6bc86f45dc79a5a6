"""Errors as Dagster's failures, each with its one line; what a retry can mend is tried again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import dagster as dg

from ft_dagster.errors import UserError
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.settings import Retries
from ft_dagster.store import unreachable

FAILURE = "failure"  # metadata of a failure: what happened, what was kept, what to do


@contextmanager
def failures(
    context: dg.AssetExecutionContext | None = None, retries: Callable[[], Retries] | None = None
) -> Iterator[None]:
    """Raise Dagster's Failure for what a person can mend, RetryRequested for what another try can.

    A RetryPolicy would also retry a cancel (dagster#15026), so each retry is asked for here.
    """
    try:
        yield
    except UserError as error:
        raise _failure(str(error)) from None
    except ProgramFailed as error:
        if not error.mendable or context is None or retries is None:
            raise _failure(str(error)) from None
        _try_again(context, retries(), str(error))
    except Exception as error:
        if context is None or retries is None or not unreachable(error):
            raise
        said = f"the storage could not be reached ({type(error).__name__}: {error})"
        _try_again(context, retries(), f"{said}. Kept: every artifact already made. Run it again")


def _try_again(context: dg.AssetExecutionContext, retries: Retries, line: str) -> NoReturn:
    """Let Dagster run the step again after a while, or fail where that was done often enough."""
    tried = context.retry_number
    if tried >= retries.attempts:
        raise _failure(f"{line} (given up after {tried + 1} tries)" if tried else line) from None
    wait = retries.wait(tried)
    context.log.warning(f"{line}. Tried again in {wait:g} s ({tried + 1} of {retries.attempts})")
    raise dg.RetryRequested(max_retries=retries.attempts, seconds_to_wait=wait) from _failure(line)


def _failure(line: str) -> dg.Failure:
    return dg.Failure(line, metadata={FAILURE: dg.MetadataValue.text(line)}, allow_retries=False)
