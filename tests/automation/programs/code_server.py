"""A process that starts runs as Dagster's code server does, and says how each ends, a JSON line each.

    python code_server.py ASKED [IMPORTS]

ASKED: what its environment says of forking. IMPORTS: what the process imports that runs are forked from. It
reads a JSON list a line: ["run", THEN, SECONDS] starts one; ["lives"] and ["end"] ask for the oldest.
"""

import json
import multiprocessing
import os
import sys
import time
from typing import Any

from ft_dagster.automation import forked_runs


def seen() -> dict[str, Any]:
    """What a run finds of itself."""
    import numpy

    return {
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "modules": sorted(name for name in sys.modules if name.startswith(("dagster", "torch", "peft"))),
        "environment": dict(os.environ),
        "random": float(numpy.random.random()),
    }


def run(queue: Any, then: str, seconds: float) -> None:
    queue.put(seen())
    time.sleep(seconds)
    if then == "fail":
        sys.exit(3)


def main() -> None:
    if len(sys.argv) > 2:
        forked_runs.IMPORTS = sys.argv[2]
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
