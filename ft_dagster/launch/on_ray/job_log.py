"""The lines of a Ray job's log as they come, over a connection that may break."""

from __future__ import annotations

import asyncio
import queue
import time
from threading import Event, Thread
from typing import Any

RETRY_SECONDS = 1.0


class JobLog:
    """Follows the log of a job in a thread. `client`: Ray's JobSubmissionClient."""

    def __init__(self, client: Any, job_id: str) -> None:
        self._client = client
        self._job_id = job_id
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._taken = 0  # characters
        self._rest = ""
        self._closed = Event()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def lines(self, seconds: float) -> list[str]:
        """Those that came, waiting up to so many seconds for the first."""
        found: list[str] = []
        try:
            found.append(self._lines.get(timeout=seconds))
            while True:
                found.append(self._lines.get_nowait())
        except queue.Empty:
            return found

    def close(self, seconds: float = 5.0) -> list[str]:
        """The lines that are left, once the job has ended."""
        self._closed.set()
        self._thread.join(seconds)
        rest = [self._rest] if self._rest and not self._thread.is_alive() else []
        return [*self.lines(0), *rest]

    def _follow(self) -> None:
        while True:
            last = self._closed.is_set()
            try:
                asyncio.run(self._tail())
                return
            except Exception:  # whatever the network did: the job's state says whether it still runs
                if last:
                    return
                time.sleep(RETRY_SECONDS)

    async def _tail(self) -> None:
        """From the beginning each time, past what was taken already."""
        seen = 0
        async for text in self._client.tail_job_logs(self._job_id):
            new = text[max(0, self._taken - seen) :]
            seen += len(text)
            self._taken += len(new)
            *whole, self._rest = (self._rest + new).split("\n")
            for line in whole:
                self._lines.put(line)
