"""Creates an object that must not exist yet, on an object store.

Three ways, the first that holds:

1. `If-None-Match: *`, where the server honours it. Servers that do not know the header take a second writer
   in silence, so the server is tried: two creations of one probe, before the first creation of a process.
2. Else under a lock of this host, and the store is this host's alone: `writer.json` there names the lock.
3. Another host (another lock) is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.strict_json import loads

WRITER = "writer.json"
PROBES = "probes"
TRIES = 8
SETTLE_SECONDS = 0.5  # after which of two hosts that claimed a store at once one finds itself overwritten
_STANDS = {"PreconditionFailed", "412"}
_AT_ONCE = {"ConditionalRequestConflict", "OperationAborted", "409"}  # another creation of it is in progress
_UNKNOWN = {"NotImplemented", "501"}


class RemoteCreation:
    """Creates objects below `root` (bucket/prefix) of a remote file system. `locks`: a folder of this
    host.
    """

    def __init__(self, fs: Any, url: str, root: str, locks: Path | None) -> None:
        self._fs, self._url, self._root = fs, url, root
        self._locks = locks or Path("/tmp") / f"ft_dagster-writers-{os.getuid()}"

    def create(self, path: str, content: bytes) -> bool:
        """Write `path` if nothing is there; whether this call did. Raises UserError: see `_locked`."""
        if self.conditional:
            return self._create_conditionally(path, content)
        with self._locked():
            if self._fs.exists(path):
                return False
            self._fs.pipe_file(path, content)
            return True

    @cached_property
    def conditional(self) -> bool:
        """Say whether the server refuses to create what exists, by trying it; only S3 has the header."""
        if not self._url.startswith("s3://"):
            return False  # fsspec asks whether it exists and then writes
        probe = f"{self._root}/{PROBES}/{uuid.uuid4().hex}"
        try:
            first, second = (self._put(probe, word) for word in (b"first", b"second"))
            return first is None and second == "stands"
        finally:
            with suppress(PermissionError):  # a store in which nothing may be deleted keeps its probes
                self._fs.rm_file(probe)

    def _create_conditionally(self, path: str, content: bytes) -> bool:
        """Create an object; one that stands with our own content was written by us, and the answer to a first
        try was lost.
        """
        for tried in range(TRIES):
            refused = self._put(path, content)
            if refused is None:
                return True
            try:
                return bool(self._fs.cat_file(path) == content)
            except FileNotFoundError:
                time.sleep(random.uniform(0, 0.05 * 2**tried))
        raise UserError(
            f"the server refused {TRIES} times to create a file that does not exist",
            file=f"{self._url}{path.removeprefix(self._root)}",
            fix="Look at the server's log, and run it again",
        )

    def _put(self, path: str, content: bytes) -> str | None:
        """Create an object; return None if the server took it, else why not. Any other error is raised."""
        try:
            self._fs.pipe_file(path, content, mode="create")
        except OSError as error:
            code = code_of(error)
            if isinstance(error, FileExistsError) or code in _STANDS:
                return "stands"
            if code in _AT_ONCE:
                return "another creates it"
            if code in _UNKNOWN:
                return "unknown"
            raise
        return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold this host's lock on the store. Raises UserError where another host writes to it."""
        name = hashlib.sha256(self._url.encode()).hexdigest()[:32]
        self._locks.mkdir(parents=True, exist_ok=True)
        with (self._locks / f"store-{name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._claim(name_of(lock))
            yield

    def _claim(self, mine: str) -> None:
        marker = f"{self._root}/{WRITER}"
        found = self._writer(marker)
        if found is None:
            host = os.uname().nodename
            self._fs.pipe_file(marker, json.dumps({"schema_version": 1, "lock": mine, "host": host}).encode())
            time.sleep(SETTLE_SECONDS)
            found = self._writer(marker) or {}
        if found.get("lock") != mine:
            raise UserError(
                f"another host writes to this store ({found.get('host')}), and its server creates nothing "
                "exclusively: two hosts would write over each other",
                file=f"{self._url}/{WRITER}",
                fix="Use a server that honours If-None-Match (AWS S3, MinIO), write from one host alone, or "
                "delete that file once no other host writes",
            )

    def _writer(self, marker: str) -> dict[str, object] | None:
        try:
            found = loads(self._fs.cat_file(marker))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def name_of(lock: Any) -> str:
    """Return the name that a lock file has in it, given at its first use."""
    lock.seek(0)
    name = str(lock.read()).strip()
    if not name:
        name = uuid.uuid4().hex
        lock.write(name)
        lock.flush()
    return name


def code_of(error: BaseException) -> str | None:
    """Return the server's code of an error, of botocore or of s3fs, which translates those."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return None if code is None else str(code)
