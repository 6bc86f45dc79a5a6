"""Marks what a sensor has read of an instance."""

import json
from datetime import datetime
from typing import NamedTuple


class InstanceCursor(NamedTuple):
    """Marks how far an instance was read. `runs`: seconds since 1970, by the time of their change;
    `releases`: id of an event of Dagster's.
    """

    runs: float
    releases: int

    @classmethod
    def of(cls, cursor: str | None, since: datetime) -> "InstanceCursor":
        """Read the cursor as `str` wrote it; of another text, or none, one from which all since then is
        read.
        """
        try:
            content = json.loads(cursor or "")
            return cls(float(content["runs"]), int(content["releases"]))
        except (ValueError, KeyError, TypeError):
            return cls(since.timestamp(), 0)

    def __str__(self) -> str:
        return json.dumps(self._asdict())
