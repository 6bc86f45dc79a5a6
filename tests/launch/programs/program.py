"""A program as the launcher starts it (`python -m program RUN_DIR`); RUN_DIR/run.json says what it does.

`exit`: its exit code; `kill`: the signal it kills itself with; `megabytes`: how much it prints; `family`: it
starts a process that ignores signals, in a session of its own, through a parent that ends at once; `wait`:
it stays; `on`: {signal name: exit code}; `saves`: seconds that it takes to save on SIGTERM, to exit with 75;
`hold`: it takes its share of the lease; `stubborn`: it stays and ignores SIGINT and SIGTERM.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ft_dagster.launch.leases import hold_as_rank

run_dir = Path(sys.argv[1])
run = json.loads((run_dir / "run.json").read_text())

if run.get("hold"):
    hold_as_rank()
for name, code in run.get("on", {}).items():
    signal.signal(signal.Signals[name], lambda *_, code=code: sys.exit(code))


def save(*_: object) -> None:
    time.sleep(run["saves"])
    sys.exit(75)


if "saves" in run:
    signal.signal(signal.SIGTERM, save)
if run.get("stubborn"):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(run.get("megabytes", 0)):
    sys.stdout.write(("x" * 1023 + "\n") * 1024)
if run.get("family"):
    script = Path(__file__).with_name("stubborn.py")
    start = "import subprocess, sys; subprocess.Popen(sys.argv[1:], start_new_session=True)"
    command: list[str | Path] = [sys.executable, script, run_dir / "grandchild"]
    environment: dict[str, str] | None = {} if run["family"] == "without environment" else None
    subprocess.run([sys.executable, "-c", start, *command], env=environment, check=True)
    while not (run_dir / "grandchild").exists() or not (run_dir / "grandchild").read_text():
        time.sleep(0.01)
(run_dir / "environment.json").write_text(json.dumps(dict(os.environ)))
(run_dir / "pid").write_text(str(os.getpid()))
if "kill" in run:
    os.kill(os.getpid(), signal.Signals[run["kill"]])
if run.get("wait") or run.get("stubborn"):
    time.sleep(120)
sys.exit(run.get("exit", 0))
