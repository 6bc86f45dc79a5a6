"""Writes to RUN_DIR/seen.json what a program can see of how it was started."""

import gc
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path

import psutil


def open_files() -> list[str]:
    """Beyond the three streams."""
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}") if number > 2 else "")
        except FileNotFoundError:  # the listing itself
            continue
    return sorted(filter(None, found))


def disposition(number: int) -> str:
    found = signal.getsignal(number)
    return getattr(found, "__name__", str(found))


this = psutil.Process()
supervisor, spec = this.parent(), sys.modules["__main__"].__spec__
assert supervisor is not None
assert spec is not None
seen = {
    "environment": dict(os.environ),
    "shown_environment": this.environ(),
    "shown_command": [word for word in this.cmdline() if word],
    "supervisor_command": [word for word in supervisor.cmdline() if word],
    "supervisor_leads_its_session": os.getsid(0) == supervisor.pid,
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "flags": list(sys.flags),
    "path": sys.path,
    "main": spec.name,
    "globals": sorted(name for name in globals() if name.startswith("__")),
    "folder": os.getcwd(),
    "umask": os.umask(0),
    "limits": {
        name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if "RLIMIT" in name
    },
    "cores": sorted(os.sched_getaffinity(0)),
    "signals": {int(n): disposition(n) for n in signal.valid_signals()},
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
    "wakeup": signal.set_wakeup_fd(-1),
    "files": open_files(),
    "stdin": os.readlink("/proc/self/fd/0"),
    "streams": [
        [getattr(stream, name) for name in ("encoding", "errors", "line_buffering", "write_through")]
        for stream in (sys.stdout, sys.stderr)
    ],
    "collects": gc.isenabled(),
    "threads": threading.active_count(),
    "children": len(this.children()),
}
run_dir = Path(sys.argv[1])
(run_dir / "pids.json").write_text(json.dumps([this.pid, supervisor.pid, supervisor.ppid()]))
(run_dir / "seen.json").write_text(json.dumps(seen))
