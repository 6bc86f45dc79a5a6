"""Starts a rank, says its pid once the rank holds its share, and waits for it."""

import subprocess
import sys
from pathlib import Path

rank = subprocess.Popen(
    [sys.executable, Path(__file__).with_name("rank.py")], stdout=subprocess.PIPE, text=True
)
assert rank.stdout is not None
assert rank.stdout.readline() == "holding\n"
print(rank.pid, flush=True)
rank.wait()
