"""What does it cost to start a variant's programs, each by itself, and forked? Markdown tables on stdout.

    .venv/bin/python benchmarks/start_up.py

A program's start-up is from the launcher's call until it has imported what it needs on this host, and until
it is gone again: it does nothing else. Plain: Python is started, for its supervisor and for itself. Forked:
both are forks of the warm server, which was there; what that costs once is its own row. Each is done in turn,
in one call, so that what else the machine does falls on all alike; the median is shown. The second table is
what the libraries cost, CPU seconds, in the order in which a server imports them.

On two cores of an AMD EPYC, seven other jobs beside it (load 11 to 15; three rounds instead of five):

    | program | plain, s | forked, s | ratio |
    |---|---|---|---|
    | evaluation.tasks.texts | 5.79 | 1.10 | 5 |
    | evaluation, of the base | 17.13 | 1.13 | 15 |
    | training | 33.45 | 1.37 | 24 |
    | evaluation | 15.02 | 1.07 | 14 |
    | export | 29.89 | 1.46 | 20 |
    | a variant | 101.3 | 6.1 | 16 |
    | the server, once | | 36.8 | |

    | library | CPU, s |
    |---|---|
    | pyarrow.dataset | 0.3 |
    | scipy.stats | 0.7 |
    | sklearn.metrics | 0.2 |
    | torch | 1.5 |
    | transformers | 0.5 |
    | transformers.modeling_utils | 2.0 |
    | datasets | 0.1 |
    | deepspeed | 0.2 |
    | peft | 1.4 |
    | trl.trainer.sft_trainer | 0.2 |
    | lm_eval.tasks | 0.2 |
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from ft_dagster.launch.local import run_program
from ft_dagster.launch.warm import choice, imports, world

HERE = Path(__file__).resolve()
TIMES = 5
EVALUATION = ["ft_dagster.evaluation.__main__", "ft_dagster.evaluation.run", "lm_eval.evaluator"]
EVALUATION += ["lm_eval.models.huggingface", "pyarrow.parquet"]
TRAINING = [
    "ft_dagster.training.trainer",
    "datasets",
    "transformers.trainer",
    "accelerate",
    "peft",
    "deepspeed",
]
TRAINING += ["ft_dagster.training.sft", "pyarrow.parquet", "transformers.models.llama.modeling_llama"]
EXPORT = ["ft_dagster.export.__main__", "ft_dagster.export.run", "peft", "safetensors.torch"]
EXPORT += ["transformers.models.llama.modeling_llama"]
PROGRAMS = {  # in the order in which a variant starts them
    "evaluation.tasks.texts": [
        "ft_dagster.evaluation.tasks.texts",
        "lm_eval.tasks",
        "datasets",
        "pyarrow.parquet",
    ],
    "evaluation, of the base": EVALUATION,
    "training": TRAINING,
    "evaluation": EVALUATION,
    "export": EXPORT,
}


def program(run_dir: Path) -> None:
    """What is started: it imports, and ends."""
    os.environ.update(world.GIVEN | imports.environment_for_imports({}))
    for name in json.loads((run_dir / "run.json").read_text())["imports"]:
        importlib.import_module(name)


def seconds(start: str, names: list[str], folder: Path) -> float:
    run_dir = folder / "run"
    run_dir.mkdir(exist_ok=True)
    (run_dir / "run.json").write_text(json.dumps({"imports": names}))
    began = time.monotonic()
    code = run_program(HERE.stem, run_dir, environment={choice.START: start}, output=folder / "log")
    if code != 0:
        raise SystemExit((folder / "log").read_text())
    return time.monotonic() - began


def library_costs() -> dict[str, float]:
    """CPU seconds of each that takes a tenth of one, imported by a new process in the server's order."""
    script = (
        "import importlib, json, sys, time\nfound = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    began = time.process_time(); importlib.import_module(name)\n"
        "    found[name] = time.process_time() - began\n"
        "print(json.dumps(found))"
    )
    environment = {**os.environ, **world.GIVEN, **imports.environment_for_imports({})}
    names = json.dumps(imports.chosen(None))
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, names], env=environment, capture_output=True, check=True
    )
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: cost for name, cost in costs.items() if cost >= 0.1}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[choice.FOLDER] = str(folder / "warm")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        first = seconds("auto", [], folder)
        taken: dict[tuple[str, str], list[float]] = {}
        for _ in range(TIMES):
            for program_name, names in PROGRAMS.items():
                for start in ("off", "auto"):
                    taken.setdefault((program_name, start), []).append(seconds(start, names, folder))
        print("| program | plain, s | forked, s | ratio |\n|---|---|---|---|")
        both = {start: [median(taken[name, start]) for name in PROGRAMS] for start in ("off", "auto")}
        for program_name, plain, forked in zip(PROGRAMS, both["off"], both["auto"], strict=True):
            print(f"| {program_name} | {plain:.2f} | {forked:.2f} | {plain / forked:.0f} |")
        plain, forked = sum(both["off"]), sum(both["auto"])
        print(f"| a variant | {plain:.1f} | {forked:.1f} | {plain / forked:.0f} |")
        print(f"| the server, once | | {first:.1f} | |\n")
    print("| library | CPU, s |\n|---|---|")
    for library, cost in library_costs().items():
        print(f"| {library} | {cost:.1f} |")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        program(Path(sys.argv[1]))
    else:
        main()
