"""Asks the head of a Ray cluster, by Ray's own client of its jobs, and sorts what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from ft_dagster.errors import UserError

T = TypeVar("T")
CLIENT = "ray"  # the package that Ray's client is in
# What a proxy in front of a head says while that is not ready: a head says that a job does not exist.
IN_FRONT = re.compile(r"status code (404|5\d\d)|version check returned", re.IGNORECASE)


class Unknown(Exception):
    """Says that the cluster knows of no such job."""


def answered(call: Callable[[], T]) -> T:
    """Return what the head answers. Raises Unknown, OSError where it does not, or cannot just now, and
    UserError where it refuses.
    """
    try:
        return call()
    except ModuleNotFoundError as error:
        raise _not_installed() from error
    except RuntimeError as error:
        if "status code 404" in str(error) and "does not exist" in str(error):
            raise Unknown(first_line(str(error))) from None
        if IN_FRONT.search(str(error)):
            raise ConnectionError(first_line(str(error))) from error
        fix = "See that it lets jobs be submitted, and that Ray has one version on both sides"
        raise UserError(
            f"the Ray head refuses: {first_line(str(error))}", field="ray.address", fix=fix
        ) from error


def need_client(file: Path) -> None:
    """Raises UserError where Ray's client, which a file asks for, is not installed."""
    if find_spec(CLIENT) is None:
        raise _not_installed(file=file, field="launcher", value="ray")


def _not_installed(**of_what: Any) -> UserError:
    return UserError("ray is not installed here", **of_what, fix="pip install 'ft-dagster[ray]'")


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
