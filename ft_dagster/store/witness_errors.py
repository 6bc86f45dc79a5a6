"""Says of a witness that gives no answer why, in one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import TRUST_FILE, Trust
from ft_dagster.store.remote_errors import UNREACHED, closed, disk_full, outage, refused, unreachable

T = TypeVar("T")


def asked(url: str, trust: Trust, ask: Callable[[], T]) -> T:
    """Return what the witness at an address answers. Raises UserError, which names it, for none."""
    try:
        return ask()
    except Exception as error:
        said = no_answer(url, trust, error)
        if said is None:
            raise
        raise said from error


def no_answer(url: str, trust: Trust, error: Exception) -> UserError | None:
    """Return the error to raise where a witness could not be reached, lets nobody in or takes nothing; None
    for any other.
    """
    if isinstance(error, UserError):
        return None
    if unreachable(error):
        said = outage(error).problem.removeprefix(f"{UNREACHED}: ")
        problem = f"the witness {url} could not be reached: {said}"
        more = f", or take `strict` from {TRUST_FILE}" if trust.strict else ", and try again"
        return UserError(problem, file=trust.file, field="witnesses", fix=f"See that it can be reached{more}")
    if (denied := refused(error)) is None:
        return closed(error) or disk_full(error)
    problem = f"the witness {url}: {denied.problem}"
    fix = "Renew them, or let them list, read and create files there"
    return UserError(problem, file=trust.file, field="witnesses", fix=fix)
