"""A process that starts runs as Dagster's code server does, and says how each ends, a JSON line each.

    python code_server.py ASKED [IMPORTS]

ASKED: what its environment says of forking. IMPORTS: what the process imports that runs are forked from. It
reads a JSON list a line: ["run", WHAT, SECONDS] starts one; ["lives"] and ["end"] ask for the oldest.
"""

import atexit
import json
import multiprocessing
import os
import sys
import time
from typing import Any

from ft_dagster.automation import forked_runs


def seen() -> dict[str, Any]:
    """What a run finds of itself."""
    environment = dict(os.environ)  # before libraries write into it
    import numpy
    import threadpoolctl
    import torch
    from huggingface_hub import constants

    libraries = threadpoolctl.threadpool_info()
    return {
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "threads": sorted((each["internal_api"], each["num_threads"]) for each in libraries),
        "torch": torch.get_num_threads(),
        "offline": constants.HF_HUB_OFFLINE,
        "environment": environment,
        "random": float(numpy.random.random()),
    }


def run(queue: Any, what: str, seconds: float) -> None:
    atexit.register(print, "it ended", file=sys.stderr, flush=True)
    queue.put({"modules": sorted(sys.modules), **(seen() if what == "look" else {"parent": os.getppid()})})
    time.sleep(seconds)
    if what == "fail":
        sys.exit(3)


def main() -> None:
    if len(sys.argv) > 2:
        forked_runs.IMPORTS = sys.argv[2]
    forked_runs.PATIENCE = float(os.environ.pop("PATIENCE", "60"))
    context: Any = multiprocessing.get_context("spawn")  # as Dagster's server asks for it, before
    environment = {**os.environ, forked_runs.ASKED: sys.argv[1]}
    forks = forked_runs.fork_runs(environment)
    say(forks=forks, asked=forked_runs.ASKED in environment)
    queue, runs = context.Queue(), []
    for line in sys.stdin:
        what, *rest = json.loads(line)
        if what == "run":
            process = context.Process(target=run, args=(queue, *rest))
            process.start()
            runs.append(process)
            say(pid=process.pid, **queue.get())
        elif what == "lives":
            say(lives=runs[0].is_alive())
        else:
            process = runs.pop(0)
            process.join()
            say(code=process.exitcode)


def say(**content: Any) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main()
