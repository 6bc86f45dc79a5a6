"""Asks the head of a Ray cluster, by Ray's own client of its jobs, and sorts what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ft_dagster.errors import UserError

T = TypeVar("T")


class Unknown(Exception):
    """Says that the cluster knows of no such job."""


def answered(call: Callable[[], T]) -> T:
    """Return what the head answers. Raises Unknown, OSError where it does not, or cannot just now, and
    UserError where it refuses.
    """
    try:
        return call()
    except RuntimeError as error:
        if "status code 404" in str(error):
            raise Unknown(first_line(str(error))) from None
        if "status code 5" in str(error):
            raise ConnectionError(first_line(str(error))) from error
        fix = "See that it lets jobs be submitted, and that Ray has one version on both sides"
        raise UserError(
            f"the Ray head refuses: {first_line(str(error))}", field="ray.address", fix=fix
        ) from error


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
