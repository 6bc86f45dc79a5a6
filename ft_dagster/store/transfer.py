"""Copies files into a store and out of it: several at once, each checked against its digest, with retries of
passing failures.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.store.blobs import Store
from ft_dagster.store.remote_errors import unreachable

AT_ONCE = 4  # files; each large one in up to four parts at once (see `Store.upload`)
TRIES = 3  # of one transfer; botocore already tries each request again, for less than a minute
FIRST_WAIT = 0.5
SENT = 3  # times a file is sent that does not come back as it was
OTHER_BYTES = "has other bytes than when it was made"
WHO_WROTE_IT = "See who wrote it, and whose credentials these were; then delete it, and run the variant again"
T = TypeVar("T")
R = TypeVar("R")


class Transfer(NamedTuple):
    """Names a file of this host and of a store. `sha256`: what both are to have."""

    local: Path
    stored: str
    sha256: str


def send_all(store: Store, files: Iterable[Transfer]) -> None:
    """Upload files, and read each back. Raises UserError, see `send`."""
    each_at_once(lambda file: send(store, file), list(files))


def send(store: Store, file: Transfer) -> None:
    """Upload one file, and read it back; again where it came back as another, or not at all. Raises UserError
    for a file that has other bytes here, or there after that.
    """
    for _ in range(SENT):
        _upload(store, file)
        with suppress(FileNotFoundError):
            if persist(lambda: store.sha256(file.stored)) == file.sha256:
                return
    if sha256_file(file.local) != file.sha256:
        raise UserError(OTHER_BYTES, file=file.local, fix="Restore it from a backup, or make it again")
    raise UserError(
        "was not read back as it was written",
        file=store.uri(file.stored),
        fix="Look at its disk or its server, and run it again",
    )


def _upload(store: Store, file: Transfer) -> None:
    """Upload a file, and read back what stands: a server that died forgot an upload in parts, and so did one
    whose answer was lost after it completed.
    """
    file.local.stat()
    with suppress(FileNotFoundError):
        persist(lambda: store.upload(file.local, file.stored))


def fetch_all(store: Store, files: Iterable[Transfer], drafts: Path) -> None:
    """Download files, each whole or not at all. Raises UserError, see `fetch`."""
    each_at_once(lambda file: fetch(store, file, drafts), list(files))


def fetch(store: Store, file: Transfer, drafts: Path) -> None:
    """Download one file, by way of the folder `drafts` on the same disk. Raises FileNotFoundError, and
    UserError for other bytes.
    """
    draft = drafts / uuid.uuid4().hex
    try:
        persist(lambda: store.download(file.stored, draft))
        if sha256_file(draft) != file.sha256:
            fix = (
                "Restore it from a backup, or delete the manifest.json above it: the stage is then made again"
            )
            raise UserError(f"a stored file {OTHER_BYTES}", file=store.uri(file.stored), fix=fix)
        file.local.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(file.local)
    finally:
        draft.unlink(missing_ok=True)


def is_below(path: str) -> bool:
    """Say whether a path names something below the folder that it is of, and nothing else."""
    plain = PurePosixPath(path)
    return bool(plain.parts) and not plain.is_absolute() and ".." not in plain.parts and "\0" not in path


def below(folder: Path, path: str, listed_in: str) -> Path:
    """Return a file of a folder by its path there. Raises UserError for a path that leads out of it."""
    if not is_below(path):
        problem = "names a file that is not below the output of its training"
        raise UserError(problem, file=listed_in, value=path, fix=WHO_WROTE_IT)
    return folder / path


def each_at_once(work: Callable[[T], R], those: Sequence[T]) -> list[R]:
    """Return the results in order; where one fails, what has not begun does not begin, and its error is
    raised.
    """
    if len(those) < 2:
        return [work(one) for one in those]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = [pool.submit(work, one) for one in those]
        try:
            return [one.result() for one in asked]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def persist(call: Callable[[], R]) -> R:
    """Return what `call` returns, tried again while the storage cannot be reached; its last error is
    raised.
    """
    for tried in range(TRIES - 1):
        try:
            return call()
        except Exception as error:
            if not unreachable(error):
                raise
            time.sleep(FIRST_WAIT * 2**tried * random.uniform(0.5, 1.5))
    return call()
