"""The lane of a GPU machine, run as a child."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


LANE = ROOT / "benchmarks" / "gpu" / "lane.py"


Run = Callable[..., subprocess.CompletedProcess[str]]
