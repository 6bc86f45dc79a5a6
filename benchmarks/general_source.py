"""General text of a corpus, or written by the base itself? At equal tokens, on the demo's tasks. A table.

    nice -n 19 .venv/bin/python benchmarks/general_source.py        # goes on where it was ended
    .venv/bin/python benchmarks/general_source.py --for 60 --tasks coder,procedures --seeds 0
    .venv/bin/python benchmarks/general_source.py --status           # and the table of what is done

LoRA at its default rate, the same rows and the same share of the tokens that are read, from the demo's corpus
and sampled from the base (`general: {from: base}`); ARC-Easy and SciQ on 500 questions. Each source holds out
text of its own, so the general loss is measured besides: of every adapter, and of the base, on the same
60 pieces that the corpus holds out. What is exported is the last step's, so that all have read as much. A run
is one training and its evaluation, some minutes of one core, and its result one file; the base's text takes
eleven minutes once. One thread unless OMP_NUM_THREADS says otherwise. Needs the demo's model and data:
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
SHARE = "share: 0.1"
RULES = ("test_split_task", "arc_easy_local", "sciq_local")
GENERAL_LOSS = "general_loss"
PIECES, TOKENS = 60, 256  # of the corpus's held-out text
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
  evaluations: 1 # at the end alone: all have read as much
  keep_best: 1
  keep_last: 1
  watch: {{budget: 0.001}}
evaluation:
  general: [{demo}/tasks/arc_easy_local.yaml, {demo}/tasks/sciq_local.yaml]
  limit: {questions}
  max_new_tokens: 1 # losses are compared, not answers
gates:
  {{general_margin: 1.0, general_loss_margin: 1.0, task_margin: 1.0, loss_tail: 0.5,
    regression_margin: null, reference: null}}
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
    """(base, tuned) by task, of one training and its evaluation, and of the loss on the corpus's text."""
    program = [str(Path(sys.executable).with_name("ft-dagster")), "--project", str(folder)]
    asked = ["sweep", variant, "--set", f"training.seed={seed}", "--json"]
    done = subprocess.run([*program, *asked], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{variant}, seed {seed}: no result\n{done.stdout}")
    document = json.loads(done.stdout)
    (run,) = document["runs"]
    rules: dict[str, Any] = {rule["task"]: rule for rule in run["figures"]["rules"]}
    heads = f"tenants/{variant.replace('.', '/')}/experiments/{document['id']}/{run['number']}"
    scores = {name: (rules[name]["base"], rules[name]["tuned"]) for name in RULES}
    return {**scores, GENERAL_LOSS: general_losses(folder, heads)}


def general_losses(folder: Path, heads: str) -> tuple[float, float]:
    """(base, tuned), nats a token of what the corpus holds out, whatever was mixed in. `heads`: a run's."""
    from ft_dagster.data.rendering.general import holdout_chunks
    from ft_dagster.evaluation.models.arithmetic import judging_dtype
    from ft_dagster.evaluation.models.model import load_model
    from ft_dagster.settings import load_settings
    from ft_dagster.stages.general_corpus import make_corpora
    from ft_dagster.store import read_head

    settings = load_settings(folder)
    store, cache = settings.open_store(), settings.cache_folder
    corpus = make_corpora(settings, "by-hand", lambda line: None)["general"].folder(store, cache)
    made = read_head(store, heads, "fine_tuned_model")
    assert made is not None
    adapter = made.folder(store, cache) / "payload"
    base = DEMO / "models/smollm2-135m"
    model, tokenizer = load_model(base, adapter, device="cpu", dtype=judging_dtype("cpu"))
    held_out = holdout_chunks(corpus / "payload" / "general", tokenizer, TOKENS, PIECES)
    pieces = [piece.chunk.input_ids for piece in held_out]
    with model.disable_adapter():
        before = loss_of(model, pieces)
    return before, loss_of(model, pieces)


def loss_of(model: Any, pieces: list[list[int]]) -> float:
    """Mean nats of a token that others precede."""
    import torch

    nats = 0.0
    with torch.inference_mode():
        for piece in pieces:
            ids = torch.tensor([piece])
            nats += model(input_ids=ids, labels=ids, use_cache=False).loss.item() * (len(piece) - 1)
    return nats / sum(len(piece) - 1 for piece in pieces)


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
                {name: mean(each[name][part] for each in found) for name in (*RULES, GENERAL_LOSS)}
                for part in (0, 1)
            )
            own, *benchmarks = RULES
            losses = [f"{base[name]:.3f} → {tuned[name]:.3f}" for name in (own, GENERAL_LOSS)]
            scores = [f"{base[name]:.1%} → {tuned[name]:.1%}" for name in benchmarks]
            rows.append([task, source, str(len(found)), *losses, *scores])
    head = ("task", "general text", "seeds", "loss of the answers", "general loss", "ARC-Easy", "SciQ")
    return markdown(head, rows)


def main() -> int:
    parser = arguments(__doc__ or "", "general_source")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--questions", type=int, default=500, help="of each benchmark")
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
