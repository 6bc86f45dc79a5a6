"""How much general text keeps a model from forgetting, and a share of which tokens? A table.

    nice -n 19 .venv/bin/python benchmarks/general_share.py          # goes on where it was ended
    .venv/bin/python benchmarks/general_share.py --for 8 --tasks labels --seeds 0
    .venv/bin/python benchmarks/general_share.py --table

LoRA as the plan has it, on two tasks of the bench of decisions: labels, whose answers are a few tokens (the
demo's coder), and long answers (its FAQ on building). The same rows and passes with 0, 8 and 25% general
text, of the trained tokens and of all that are read (`data.general.share_of`), so that more general text is
more steps. Losses are nats a token of answers to unseen rows, and of the general text that `decisions.py`
reads; a cell takes some 40 CPU seconds, and its result is a file. Needs the demo's model, data and packages.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import decisions
from benchmarks.decision_cell import HALVES
from benchmarks.decision_regret import BASE, Cell, Question
from benchmarks.decision_tasks import TASKS
from benchmarks.decisions import Bench
from benchmarks.project import HERE, arguments
from benchmarks.tables import markdown
from ft_dagster.planning.trials import Arm


class Mix(NamedTuple):
    """General text, a share in percent of the tokens that are `of` one kind."""

    percent: int
    of: str

    @property
    def suffix(self) -> str:
        """What a variant's name ends with."""
        return f"-{self.of}-{self.percent}"

    @property
    def declared(self) -> str:
        return f"share: {self.percent / 100}, share_of: {self.of}"


NONE = Mix(0, "trained")
MIXES = (NONE, *(Mix(percent, of) for of in ("trained", "processed") for percent in (8, 25)))
ANSWERS = ("labels", "long")


class Found(NamedTuple):
    """What one training came to. `general`: tokens of general text in a pass; `loss`, `rise`: see above."""

    general: int
    steps: int
    before: float
    loss: float
    rise: float


def as_planned(question: Question) -> Cell:
    return Cell(Arm("lora", question.plans["lora"]["training"]["learning_rate"]))


def measured(bench: Bench, task: str, mix: Mix, seed: int) -> Found | None:
    """None where it, or the base on the same rows, is not measured yet."""
    files = [bench.question_file(f"{task}{each.suffix}", seed) for each in (mix, NONE)]
    if not all(file.exists() for file in files):
        return None
    question, plain = (bench.question(f"{task}{each.suffix}", seed) for each in (mix, NONE))
    found, base = bench.known(question, as_planned(question)), bench.known(plain, BASE)
    if found is None or base is None or found.failed:
        return None
    before, loss = (fmean(each.losses[part][0] for part in HALVES) for each in (base, found))
    rise = found.losses["general"][0] - base.losses["general"][0]
    return Found(general_tokens(question), found.steps, before, loss, rise)


def general_tokens(question: Question) -> int:
    """Of one pass over the mixture."""
    from ft_dagster.data.mixture.mixture_io import read_mixture

    by_source = read_mixture(Path(question.mixture)).train.by_source
    return sum(each.tokens for source, each in by_source.items() if source.startswith("general:"))


def table(bench: Bench, tasks: Sequence[str], seeds: Sequence[int]) -> str:
    """A row for each task and mix: means over the seeds that are done."""
    rows = []
    for task, mix in product(tasks, MIXES):
        found = [each for seed in seeds if (each := measured(bench, task, mix, seed)) is not None]
        if found:
            of = mix.of if mix.percent else ""
            general, steps, before, loss, rise = (fmean(each) for each in zip(*found, strict=True))
            said = (f"{general:.0f}", f"{steps:.0f}", f"{before:.3f} → {loss:.3f}", f"{rise:+.3f}")
            rows.append([TASKS[task].kind, f"{mix.percent}%", of, str(len(found)), *said])
    head = (
        "task",
        "general text",
        "of the tokens",
        "seeds",
        "its tokens in a pass",
        "steps",
        "loss of the answers",
        "rise of general loss",
    )
    return markdown(head, rows)


def main() -> int:
    parser = arguments(__doc__ or "", "general_share")
    parser.add_argument("--tasks", default=",".join(ANSWERS))
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "general_share")
    parser.add_argument(
        "--for", dest="minutes", type=float, metavar="MINUTES", help="begin none after so many"
    )
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    tasks, seeds = given.tasks.split(","), [int(seed) for seed in given.seeds.split(",")]
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise SystemExit(f"--tasks: {', '.join(unknown)}: no such task. Known: {', '.join(TASKS)}")
    decisions.quiet_libraries()
    if given.fresh:
        shutil.rmtree(given.results, ignore_errors=True)
    bench = Bench(given.folder, given.results)
    if not given.table:
        mixed = {mix.suffix: mix.declared for mix in MIXES}
        decisions.write_project(given.folder, tasks, seeds, mixed)
    began = time.monotonic()
    for seed, task, mix in () if given.table else product(seeds, tasks, MIXES):
        if given.minutes is not None and time.monotonic() - began > 60 * given.minutes:
            break
        question = bench.question(f"{task}{mix.suffix}", seed)
        if mix == NONE:
            decisions.train(bench, question, BASE)
        decisions.train(bench, question, as_planned(question))
    print(table(bench, tasks, seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
