"""A program that goes on from checkpoints, as a pod runs it: `python -m pod RUN_DIR`. RUN_DIR/run.json says
`output`, and how many `steps` of so many `seconds` it makes; `exit`: its exit code instead of a result.

SIGTERM is a preemption: it ends with 75 after the checkpoint of its step.
"""

import json
import signal
import sys
import time
from pathlib import Path

run = json.loads((Path(sys.argv[1]) / "run.json").read_text())
output = Path(run["output"])
stopping: list[bool] = []
signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))


def numbers() -> list[int]:
    return [int(file.parent.name.split("-")[1]) for file in output.glob("checkpoints/*/whole.json")]


began = max(numbers(), default=0)
print(f"begins at step {began}", flush=True)
for step in range(began + 1, run["steps"] + 1):
    time.sleep(run["seconds"])
    folder = output / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "whole.json").write_text("{}")
    print(f"step {step}", flush=True)
    if stopping:
        sys.exit(75)
if run["exit"]:
    sys.exit(run["exit"])
(output / "payload").mkdir(exist_ok=True)
(output / "payload" / "steps").write_text(str(run["steps"]))
figures = {"began": began}
(output / "result.json").write_text(json.dumps({"schema_version": 1, "status": "done", "figures": figures}))
