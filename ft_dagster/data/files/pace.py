"""Says in words how far a loop over rows has come."""

from __future__ import annotations

import time

SAID_AFTER = 5.0  # seconds: what is left of less is not worth a word


class RowPace:
    """Measures the pace through `total` rows, from now on."""

    def __init__(self, total: int) -> None:
        self.total, self.began = total, time.monotonic()

    def said(self, done: int) -> str:
        """Return "1,024 of 50,000 rows", and "about 2m 05s left" once that can be told."""
        so_far, rest = f"{done:,} of {self.total:,} rows", self.total - done
        seconds = (time.monotonic() - self.began) * rest / done if done else 0.0
        if seconds < SAID_AFTER:
            return so_far
        minutes, left = divmod(round(seconds), 60)
        return f"{so_far}, about {minutes}m {left:02d}s left"
