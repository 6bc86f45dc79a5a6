"""Asks the head of a Ray cluster, by Ray's own client of its jobs, and sorts what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from ft_dagster.errors import UserError

T = TypeVar("T")
PATIENCE = 15  # seconds for the head to answer
CHANGE_SECONDS = 60  # and to one that is to change something
# What a proxy in front of a head says while that is not ready: a head says that a job does not exist.
IN_FRONT = re.compile(r"status code (404|5\d\d)|version check returned", re.IGNORECASE)


class Unknown(Exception):
    """Says that the cluster knows of no such job."""


def client_of(address: str, **options: Any) -> Any:
    """Return Ray's client of a head's jobs, which by itself waits for ever where a head takes its question
    and does not answer. Raises what Ray raises.
    """
    from ray.job_submission import JobSubmissionClient

    class PatientClient(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **named: Any) -> Any:
            seconds = PATIENCE if method == "GET" else CHANGE_SECONDS
            return super()._do_request(method, endpoint, **{"timeout": seconds, **named})

    return PatientClient(address, **options)


def answered(call: Callable[[], T]) -> T:
    """Return what the head answers. Raises Unknown, OSError where it does not, or cannot just now, and
    UserError where it refuses.
    """
    try:
        return call()
    except ModuleNotFoundError as error:
        fix = "pip install 'ft-dagster[ray]'"
        raise UserError("ray is not installed here", fix=fix) from error
    except RuntimeError as error:
        if "status code 404" in str(error) and "does not exist" in str(error):
            raise Unknown(first_line(str(error))) from None
        if IN_FRONT.search(str(error)):
            raise ConnectionError(first_line(str(error))) from error
        said, field = first_line(str(error)), "run_launcher.config.ray.address"
        fix = "See that it lets jobs be submitted, and that Ray has one version on both sides"
        raise UserError(f"the Ray head refuses: {said}", field=field, fix=fix) from error


def first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
