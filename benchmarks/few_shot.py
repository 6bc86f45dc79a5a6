"""What does it save to compute once the examples that all questions of a benchmark have before them?

    .venv/bin/python benchmarks/few_shot.py BASE [--questions 500] [--dtype bfloat16] [--rounds 2]

Invented multiple-choice questions about passages, four answers each, after the same five examples
(lm-eval's `first_n`). The base answers them all, with beginnings computed once and with each question
computed whole (`begins=False`), in turn on one loaded model. CPU seconds of one thread. Raw figures are
added to `few_shot.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.project import HERE
from benchmarks.tables import markdown

WORDS = (
    "river",
    "bank",
    "form",
    "passport",
    "whale",
    "season",
    "harbour",
    "clerk",
    "letter",
    "permit",
    "house",
)
SHOTS, ANSWERS = 5, 4
FILE = HERE / "few_shot.json"
Scores = Sequence[tuple[float, bool]]


def question(number: int) -> str:
    drawn = random.Random(number)
    passage = " ".join(drawn.choice(WORDS) for _ in range(60))
    return f"Passage: {passage}.\nQuestion: which word comes first?\nAnswer:"


def requests(count: int) -> list[Any]:
    from lm_eval.api.instance import Instance

    drawn = random.Random(0)
    examples = "".join(f"{question(-n)} {drawn.choice(WORDS)}\n\n" for n in range(1, SHOTS + 1))
    asked = [
        (f"{examples}{question(n)}", f" {word}")
        for n in range(count)
        for word in random.Random(n).sample(WORDS, ANSWERS)
    ]
    return [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(asked)]


def compare(lms: dict[str, Any], count: int) -> dict[str, Any]:
    """Ask in both ways; return seconds by way, and how their answers differ."""
    asked, seconds, scores = requests(count), dict[str, float](), dict[str, Scores]()
    for name, lm in lms.items():
        began = time.process_time()
        scores[name] = lm.loglikelihood(asked)
        seconds[name] = round(time.process_time() - began, 2)
    once, whole = scores.values()
    apart = [abs(a[0] - b[0]) for a, b in zip(once, whole, strict=True)]
    changed = sum(a != b for a, b in zip(chosen(once), chosen(whole), strict=True))
    return {"seconds": seconds, "apart": round(fmean(apart), 5), "other_answers": changed}


def chosen(scores: Scores) -> list[int]:
    """Return which answer is likeliest, by question."""
    told = [score for score, _ in scores]
    return [max(range(ANSWERS), key=lambda n: told[start + n]) for start in range(0, len(told), ANSWERS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--file", type=Path, default=FILE)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from ft_dagster.evaluation.models.arithmetic import judging_dtype
    from ft_dagster.evaluation.models.model import TokenBatchedLM, load_model

    torch.set_num_threads(1)
    dtype = given.dtype or judging_dtype("cpu")
    model, tokenizer = load_model(given.base, None, device="cpu", dtype=dtype)
    lms = {"once": TokenBatchedLM(model, tokenizer), "whole": TokenBatchedLM(model, tokenizer, begins=False)}
    kept = json.loads(given.file.read_text("utf-8")) if given.file.exists() else []
    rows = []
    for _ in range(given.rounds):
        load = os.getloadavg()[0]
        found = compare(lms, given.questions)
        once, whole = found["seconds"].values()
        rows.append([f"{once:.1f}", f"{whole:.1f}", f"{whole / once:.2f}", f"{found['other_answers']}"])
        known = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "dtype": dtype, "questions": given.questions}
        kept.append({**known, "load": round(load, 1), **found})
        given.file.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print(f"{dtype}, {given.questions} questions")
    print(markdown(["once, CPU s", "whole, CPU s", "ratio", "answered otherwise"], rows))


if __name__ == "__main__":
    main()
