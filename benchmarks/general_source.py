"""General text of a corpus, or written by the base itself? At equal tokens, on the demo's tasks. A table.

    .venv/bin/python benchmarks/general_source.py              # goes on where it was ended
    .venv/bin/python benchmarks/general_source.py --tasks coder,procedures --seeds 0 --questions 100

LoRA at its default rate, the same rows and the same share of the tokens that are read, from the demo's corpus
and sampled from the base (`general: {from: base}`); ARC-Easy and SciQ on 500 questions. The loss on general
text is not compared: each source holds out its own. It takes hours of two cores, eleven minutes of them for
the base's text, and needs the demo's model and data:
`make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from project import DEMO, arguments, make_project
from tables import markdown

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


def scores(folder: Path, variant: str, seeds: str) -> dict[str, tuple[float, float]]:
    """(base, mean of the tuned models over the seeds) by task. What is done already is kept by the sweep."""
    program = [str(Path(sys.executable).with_name("ft-dagster")), "--project", str(folder)]
    asked = ["sweep", variant, "--set", f"training.seed={seeds}", "--json"]
    done = subprocess.run([*program, *asked], check=True, stdout=subprocess.PIPE, text=True)
    rules: list[dict[str, Any]] = [
        rule for run in json.loads(done.stdout)["runs"] for rule in run["figures"].get("rules", ())
    ]
    found = {name: [rule for rule in rules if rule["task"] == name] for name in RULES}
    return {name: (each[0]["base"], mean(rule["tuned"] for rule in each)) for name, each in found.items()}


def main() -> int:
    parser = arguments(__doc__ or "", "general_source")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--questions", type=int, default=500, help="of each benchmark and test split")
    given = parser.parse_args()
    tasks = given.tasks.split(",")
    files = {
        f"tenants/{source}/{task}.yaml": declaration(task, source, given.questions)
        for task in tasks
        for source in SOURCES
    }
    corpus = (DEMO / "corpora/general.yaml").read_text("utf-8").replace("data/", f"{DEMO}/data/")
    make_project(given.folder, {**files, "corpora/general.yaml": corpus}, fresh=given.fresh)
    rows = []
    for task in tasks:
        for source in SOURCES:
            found = scores(given.folder, f"{source}.{task}", given.seeds)
            loss, *benchmarks = found.values()
            said = [f"{base:.1%} → {tuned:.1%}" for base, tuned in benchmarks]
            rows.append([task, source, f"{loss[0]:.3f} → {loss[1]:.3f}", *said])
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown(("task", "general text", "loss of the answers", "ARC-Easy", "SciQ"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
