"""Seconds for which devices were leased, counted while tests run what leases them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ft_dagster.launch.leases import Lease, Leases


class LeasedSeconds:
    """Of the leases that this process took, so far: their number, and how long they were held together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.seconds = 0, 0.0
        began = dict[int, float]()
        acquire, release = Leases.acquire, Lease.release

        def acquired(leases: Leases, *asked: Any, **named: Any) -> Lease:
            lease = acquire(leases, *asked, **named)
            self.count += 1
            began[id(lease)] = time.monotonic()
            return lease

        def released(lease: Lease) -> None:
            self.seconds += time.monotonic() - began.pop(id(lease), time.monotonic())
            release(lease)

        monkeypatch.setattr(Leases, "acquire", acquired)
        monkeypatch.setattr(Lease, "release", released)
