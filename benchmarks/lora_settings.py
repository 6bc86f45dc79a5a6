"""Alpha and dropout of a LoRA: do the usual values hold? Two tables, on questions of the bench of decisions.

    nice -n 19 .venv/bin/python benchmarks/lora_settings.py          # goes on where it was ended
    .venv/bin/python benchmarks/lora_settings.py --only dropout --tasks labels --seeds 0
    .venv/bin/python benchmarks/lora_settings.py --table

Rows, steps and all else are the plan's. Alpha: twice the rank, 32 at any rank, or alpha/sqrt(r), at ranks 4
and 64 (at 16 all three scale by 2), each at two rates, since alpha and rate both scale a step. Dropout: 0
beside 0.05, paired by question. Losses in nats a token of answers to unseen rows, and the rise of the loss on
general text. A cell takes some 35 CPU seconds; results are kept beside those of decisions.py, by the same
names. Needs the demo's model, data and packages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import decisions
from benchmarks.decision_cell import HALVES
from benchmarks.decision_regret import BASE, Cell, Question
from benchmarks.decision_tasks import TASKS
from benchmarks.decisions import Bench
from benchmarks.project import HERE, arguments
from benchmarks.tables import markdown
from ft_dagster.planning.trials import Arm

RANKS, RATES, USUAL_RATE = (4, 64), (6e-4, 2e-4), 4e-4
SCALINGS = ("alpha = 2r", "alpha = 32", "alpha/sqrt(r), alpha = 8")
TASKS_OF_ALPHA = ("labels", "long")
DROPOUT = 0.05


class Tried(NamedTuple):
    """Settings of a LoRA that differ from the plan's, and its rate."""

    settings: Mapping[str, Any]
    rate: float


def alphas(rank: int) -> list[Mapping[str, Any]]:
    """In the order of `SCALINGS`."""
    return [
        {"rank": rank, "alpha": 2.0 * rank},
        {"rank": rank, "alpha": 32.0},
        {"rank": rank, "alpha": 8.0, "use_rslora": True},
    ]


def of_alpha() -> Iterator[Tried]:
    for settings in ({}, *(each for rank in RANKS for each in alphas(rank))):
        yield from (Tried(settings, rate) for rate in RATES)


def of_dropout() -> Iterator[Tried]:
    yield from (with_dropout(dropout) for dropout in (0.0, DROPOUT))


def with_dropout(dropout: float) -> Tried:
    return Tried({"dropout": dropout}, USUAL_RATE)


ABLATIONS = {"alpha": of_alpha, "dropout": of_dropout}


def asked(question: Question, tried: Tried) -> tuple[Question, Cell]:
    """What is trained: the question with those settings, and its cell."""
    plan = question.plans["lora"]
    method = {**plan["method"], **tried.settings}
    return replace(question, plans={**question.plans, "lora": {**plan, "method": method}}), Cell(
        Arm("lora", tried.rate)
    )


def measured(bench: Bench, question: Question, tried: Tried) -> tuple[float, float] | None:
    """(loss, rise of the loss on general text), None where either it or the base is not measured yet."""
    found, base = bench.known(*asked(question, tried)), bench.known(question, BASE)
    if found is None or base is None or found.failed:
        return None
    loss = fmean(found.losses[part][0] for part in HALVES)
    return loss, found.losses["general"][0] - base.losses["general"][0]


def alpha_table(bench: Bench, questions: Sequence[Question]) -> str:
    """A row for each rank, scaling and rate: means by task."""
    rows = []
    for tried in of_alpha():
        by_task: dict[str, list[tuple[float, float]]] = {}
        for question in questions:
            if (found := measured(bench, question, tried)) is not None:
                by_task.setdefault(question.task, []).append(found)
        if by_task:
            said = [
                f"{fmean(a for a, _ in ones):.3f} ({fmean(b for _, b in ones):+.3f})"
                for ones in by_task.values()
            ]
            rows.append([*_named(tried), *said])
    tasks = list(dict.fromkeys(question.task for question in questions))
    return markdown(("rank", "scaling", "rate", *(f"{task}: loss (general)" for task in tasks)), rows)


def dropout_table(bench: Bench, questions: Sequence[Question]) -> str:
    """A row for each task: what dropout adds to the loss, relative, and to the rise of general loss."""
    rows, every = [], list[float]()
    for task in dict.fromkeys(question.task for question in questions):
        pairs = [
            (without, with_it)
            for question in questions
            if question.task == task
            and (without := measured(bench, question, with_dropout(0.0))) is not None
            and (with_it := measured(bench, question, with_dropout(DROPOUT))) is not None
        ]
        if pairs:
            excess = [b[0] / a[0] - 1 for a, b in pairs]
            every += excess
            losses = [f"{fmean(pair[place][0] for pair in pairs):.3f}" for place in (0, 1)]
            rises = fmean(b[1] - a[1] for a, b in pairs)
            rows.append([task, str(len(pairs)), *losses, f"{fmean(excess):+.1%}", f"{rises:+.3f}"])
    if every:
        better = sum(each < 0 for each in every)
        rows.append(["all", str(len(every)), "", "", f"{fmean(every):+.1%} ({better} better with it)", ""])
    head = (
        "task",
        "seeds",
        "loss without",
        f"with {DROPOUT}",
        "excess with it",
        "general loss, more with it",
    )
    return markdown(head, rows)


def _named(tried: Tried) -> tuple[str, str, str]:
    rate = f"{tried.rate:g}"
    if not tried.settings:
        return "16", "any of the three", rate
    rank = tried.settings["rank"]
    return str(rank), SCALINGS[alphas(rank).index(tried.settings)], rate


def main() -> int:
    parser = arguments(__doc__ or "", "decisions")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "decisions")
    parser.add_argument("--only", choices=list(ABLATIONS))
    parser.add_argument("--tasks", help=f"alpha: {','.join(TASKS_OF_ALPHA)}; dropout: all")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    decisions.quiet_libraries()
    bench, seeds = Bench(given.folder, given.results), [int(seed) for seed in given.seeds.split(",")]
    bench.unpack(decisions.KEPT)
    for name in (given.only,) if given.only else ABLATIONS:
        usual = TASKS_OF_ALPHA if name == "alpha" else tuple(TASKS)
        tasks = given.tasks.split(",") if given.tasks else usual
        if not given.table:
            decisions.write_project(given.folder, tasks, seeds)
        questions = [bench.question(task, seed) for seed in seeds for task in tasks]
        for question in questions if not given.table else ():
            decisions.train(bench, question, BASE)
            for tried in ABLATIONS[name]():
                decisions.train(bench, *asked(question, tried))
        print((alpha_table if name == "alpha" else dropout_table)(bench, questions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
