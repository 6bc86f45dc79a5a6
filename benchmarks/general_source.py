"""General text of a corpus, or written by the base itself? At equal tokens, on the demo's tasks. A table.

    nice -n 19 .venv/bin/python benchmarks/general_source.py        # goes on where it was ended
    .venv/bin/python benchmarks/general_source.py --for 60 --tasks coder,procedures --seeds 0
    .venv/bin/python benchmarks/general_source.py --status           # and the table of what is done

LoRA at its default rate, the same rows and the same share of the tokens that are read, from the demo's corpus
and sampled from the base (`general: {from: base}`); ARC-Easy and SciQ on 500 questions. The loss on general
text is not compared: each source holds out its own. A run is one training and its evaluation, 10 min or so
of one core, and its result one file; the base's text takes eleven minutes once. One thread unless
OMP_NUM_THREADS says otherwise. Needs the demo's model and data:
`make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.project import DEMO, HERE, arguments, make_project
from benchmarks.tables import markdown
from ft_dagster.program import write_json

SOURCES = {"corpus": "{corpus: general, %s}", "base": "{corpus: null, from: base, %s}"}
SHARE = "share: 0.1, share_of: processed"
RULES = ("test_split_task", "arc_easy_local", "sciq_local")
VARIANT = """\
description: {task}, general text from the {source}
owners: [benchmarks@example.com]
base_model: {demo}/models/smollm2-135m
data:
  sources:
    - {{path: {demo}/data/{file}, {more}}}
  general: {general}
method: {{name: lora, rank: 16, dropout: 0.0}}
training:
  num_train_epochs: 1
  max_length: 512
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 1
  evaluations: 2
evaluation:
  general: [{demo}/tasks/arc_easy_local.yaml, {demo}/tasks/sciq_local.yaml]
  limit: {questions}
  max_new_tokens: 12
gates: {{general_margin: 1.0, general_loss_margin: 1.0, task_margin: 1.0}}
resources: {{cpu_slots: 1}}
"""


class Task(NamedTuple):
    """Rows of the demo, below its data folder, and what their declaration says beside the path."""

    file: str
    more: str


TASKS = {
    "coder": Task("meditech/icd-coder.jsonl", "system: You are a medical coder."),
    "whole-codes": Task("meditech/icd-whole-codes.jsonl", "system: You are a medical coder."),
    "procedures": Task(
        "northbank/procedures.csv", "format: alpaca, fields: {instruction: question, output: answer}"
    ),
    "building-faq": Task(
        "zaragoza/building-faq.jsonl", "system: You answer questions on building in Sweden."
    ),
}


def declaration(task: str, source: str, questions: int) -> str:
    file, more = TASKS[task]
    general = SOURCES[source] % SHARE
    return VARIANT.format(
        task=task, source=source, demo=DEMO, file=file, more=more, general=general, questions=questions
    )


def result_file(results: Path, task: str, source: str, seed: str, questions: int) -> Path:
    """Named by what the run is made from."""
    content = f"{declaration(task, source, questions)}\n{seed}"
    return results / f"{task}-{source}-{seed}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.json"


def trained(folder: Path, variant: str, seed: str) -> dict[str, tuple[float, float]]:
    """(base, tuned) by task, of one training and its evaluation."""
    program = [str(Path(sys.executable).with_name("ft-dagster")), "--project", str(folder)]
    asked = ["sweep", variant, "--set", f"training.seed={seed}", "--json"]
    done = subprocess.run([*program, *asked], check=True, stdout=subprocess.PIPE, text=True)
    (run,) = json.loads(done.stdout)["runs"]
    rules: dict[str, Any] = {rule["task"]: rule for rule in run["figures"]["rules"]}
    return {name: (rules[name]["base"], rules[name]["tuned"]) for name in RULES}


def table(results: Path, tasks: list[str], seeds: list[str], questions: int) -> str:
    """A row for each task and source: the mean over the seeds that are done."""
    rows = []
    for task in tasks:
        for source in SOURCES:
            files = [result_file(results, task, source, seed, questions) for seed in seeds]
            found = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
            if not found:
                continue
            base, tuned = (
                {name: mean(each[name][part] for each in found) for name in RULES} for part in (0, 1)
            )
            loss, *benchmarks = RULES
            said = [f"{base[name]:.1%} → {tuned[name]:.1%}" for name in benchmarks]
            rows.append([task, source, str(len(found)), f"{base[loss]:.3f} → {tuned[loss]:.3f}", *said])
    return markdown(("task", "general text", "seeds", "loss of the answers", "ARC-Easy", "SciQ"), rows)


def main() -> int:
    parser = arguments(__doc__ or "", "general_source")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--questions", type=int, default=500, help="of each benchmark and test split")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "general_source")
    parser.add_argument("--for", dest="minutes", type=float, metavar="MINUTES", help="begin none after them")
    parser.add_argument("--status", action="store_true", help="begin none")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tasks, seeds = given.tasks.split(","), given.seeds.split(",")
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise SystemExit(f"--tasks: {', '.join(unknown)}: no such task. Known: {', '.join(TASKS)}")
    if given.fresh:
        shutil.rmtree(given.results, ignore_errors=True)
    files = {
        f"tenants/{source}/{task}.yaml": declaration(task, source, given.questions)
        for task in tasks
        for source in SOURCES
    }
    corpus = (DEMO / "corpora/general.yaml").read_text("utf-8").replace("data/", f"{DEMO}/data/")
    make_project(given.folder, {**files, "corpora/general.yaml": corpus}, fresh=given.fresh)
    wanted = [(task, source, seed) for seed in seeds for task in tasks for source in SOURCES]
    began = time.monotonic()
    for task, source, seed in wanted:
        file = result_file(given.results, task, source, seed, given.questions)
        late = given.minutes is not None and time.monotonic() - began > 60 * given.minutes
        if file.exists() or late or given.status:
            continue
        write_json(file, trained(given.folder, f"{source}.{task}", seed))
        print(f"{task} {source} seed {seed}: {file.read_text('utf-8')}", file=sys.stderr, flush=True)
    done = sum(result_file(given.results, *each, given.questions).exists() for each in wanted)
    print(f"{done} of {len(wanted)} runs\n\n{table(given.results, tasks, seeds, given.questions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
