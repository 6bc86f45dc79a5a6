"""Tells what an error of a remote store means: out of reach, expired, closed to us; and says it when a
request gets no answer and is made again.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.files import is_full
from ft_dagster.store.exclusive import code_of

log = logging.getLogger(__name__)
SAY_AGAIN = 20.0  # seconds until it is said once more that a storage does not answer
_PASSING_ERRNOS = {
    errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESTALE,
    errno.EBUSY, errno.EREMOTEIO,  # s3fs' words for 503 and 500
}  # fmt: skip
CLOSED = {
    errno.EACCES: "this user may not read or write it", errno.EPERM: "this user may not read or write it",
    errno.EROFS: "its file system takes no files", errno.ENOTDIR: "a file stands where a folder has to be",
    errno.EISDIR: "a folder, or what else is no file, stands where a file has to be",
}  # fmt: skip
UNREACHED = "the storage could not be reached"
OPEN_IT = "Name another place, or let this user read and write there"
CLEAR_IT = "See who made it, and remove it"
_PASSING_ERRORS = {
    "botocore.EndpointConnectionError", "botocore.ConnectionClosedError", "botocore.ConnectTimeoutError",
    "botocore.ReadTimeoutError", "botocore.HTTPClientError",
    # Of an answer that is cut off.
    "botocore.ResponseParserError", "aiohttp.ClientPayloadError", "urllib3.IncompleteRead",
}  # fmt: skip
_NO_CREDENTIALS = {
    f"botocore.{name}"
    for name in (
        "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
        "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
    )
}  # fmt: skip
# Temporary credentials that have run out. 400 is how S3 says it to a HEAD, whose answer has no words.
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "400"}
# AWS' files of profiles, each by the variable that names another.
_PROFILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
}


class Silence:
    """Hears of each request of an S3 client that failed and may be made again, and warns of it: of the first,
    and every 20 s. The client sends what it writes unasked: aiohttp waits without a limit for the leave to
    send (`100 Continue`), and for an answer as long as `read_timeout`.
    """

    def __init__(self, client: Any, place: str) -> None:
        from botocore.handlers import add_expect_header

        self.client, self._place, self._said = client, place, 0.0
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register("needs-retry.s3", self.hear)

    def hear(self, **asked: Any) -> None:
        """Take botocore's event of a request that was answered or failed; leave the decision to others."""
        failed, response, now = asked["caught_exception"], asked["response"], time.monotonic()
        status = None if response is None else response[0].status_code
        if (failed is None and (status is None or status < 500)) or now - self._said < SAY_AGAIN:
            return
        self._said = now
        why = f"answers with status {status}" if failed is None else f"gives no answer ({name_of(failed)})"
        name, tried = asked["operation"].name, asked["attempts"]
        log.warning("the storage %s %s to try %d of %s", self._place, why, tried, name)


def unreachable(error: BaseException) -> bool:
    """Say whether an error means that the storage could not be reached just now: a retry may find it
    again.
    """
    for at in _causes(error):
        network = isinstance(at, ConnectionError | TimeoutError) or name_of(at) in _PASSING_ERRORS
        if network or (isinstance(at, OSError) and at.errno in _PASSING_ERRNOS):
            return True
    return False


def outage(error: BaseException) -> UserError:
    """Return the error to show for one by which a storage could not be reached."""
    own = next((at for at in _causes(error) if not isinstance(at, UserError)), error)  # what is said already
    said = " ".join(str(own).split()).rstrip(".") or type(own).__name__
    fix = "See that what `store` and `store_options` name answers from here, and try again"
    return UserError(f"{UNREACHED}: {said}", field="store", fix=fix)


def expired(error: BaseException) -> bool:
    """Say whether a remote storage means that temporary credentials have run out: renewed ones may let in."""
    return any(code_of(at) in _EXPIRED for at in _causes(error))


def closed(error: BaseException) -> UserError | None:
    """Return the error to raise where this host's file system denies access; None for any other error."""
    if isinstance(error, OSError) and error.errno in CLOSED and error.filename is not None:
        fix = CLEAR_IT if error.errno == errno.EISDIR else OPEN_IT
        return UserError(CLOSED[error.errno], file=os.fsdecode(error.filename), fix=fix)
    return None


def disk_full(error: BaseException) -> UserError | None:
    """Return the error to raise where a disk takes no more; None for any other error."""
    if not isinstance(error, OSError) or not is_full(error):
        return None
    file = None if error.filename is None else os.fsdecode(error.filename)
    return UserError("no space is left on the disk", file=file, fix="Free some, then run it again")


def refused(error: BaseException) -> UserError | None:
    """Return the error to raise where a remote storage denies access: no rights, or credentials that are
    wrong, expired or missing. None for any other error.
    """
    for at in _causes(error):
        by_server = isinstance(at, PermissionError) and at.errno is None  # of a file it has a number
        if by_server or name_of(at) in _NO_CREDENTIALS or code_of(at) in _EXPIRED:
            said = "they may have expired, as a HEAD is not told" if code_of(at) == "400" else str(at)
            return UserError(
                f"the storage lets nobody in with these credentials: {' '.join(said.split()).rstrip('.')}",
                field="store_profiles",
                fix="Renew them, or let them list, read, write and delete in the store. Then run it again: "
                "it goes on from what was kept",
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def profiles_written() -> float:
    """Return when a file of AWS' profiles was written last, in seconds since 1970; 0 where there is none."""
    newest = 0.0
    for name, usual in _PROFILES.items():
        with suppress(OSError):  # there is none, or it is not ours to read
            newest = max(newest, os.path.getmtime(os.path.expanduser(os.environ.get(name) or usual)))
    return newest


def name_of(error: BaseException) -> str:
    return f"{type(error).__module__.split('.')[0]}.{type(error).__name__}"
