"""One cell of the bench of decisions: a training, and what it measured. See `decisions.py`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.decision_regret import CHOSEN_ON, SCORED_ON, VALIDATION, Cell, Question

HALVES = (CHOSEN_ON, SCORED_ON)
BY_EXAMPLE = (VALIDATION, SCORED_ON)  # parts of which the loss of each row is kept
GENERAL_ROWS, AT_ONCE = 12, 16


def train_cell(question: Question, cell: Cell, file: Path, scratch: Path) -> None:
    """Train and measure one cell in this process, and leave its result."""
    import torch
    import transformers

    from ft_dagster.errors import UserError
    from ft_dagster.launch.processes import die_with_parent
    from ft_dagster.program import keep_freed_memory, write_json
    from ft_dagster.training import trainer as program
    from ft_dagster.training.arguments import training_arguments
    from ft_dagster.training.batches.mixture import open_split
    from ft_dagster.training.contract import recipe_digest
    from ft_dagster.training.progress import Silent
    from ft_dagster.training.stop_signals import Stop

    die_with_parent()
    keep_freed_memory()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    asked = training_run(question, cell, scratch)
    member = asked.members[0]
    member.checkpoints.mkdir(parents=True, exist_ok=True)
    work = program.prepare(asked, member, recipe_digest(asked, member), Silent())
    trainer, observer = program.build_trainer(asked, work, Stop(), training_arguments(work))
    began, failed = time.process_time(), None
    try:
        if cell.steps != 0:
            trainer.train()
    except UserError as error:  # the loss diverged
        failed = str(error)
    trained = time.process_time()
    unseen = open_split(Path(question.unseen), "validation", scratch) if cell.whole else None
    if cell.arm.method == "full":
        trainer.model.to(torch.bfloat16)  # as it is exported: rounded, and half as long to measure
    examples = {} if failed else losses_of(trainer, work, unseen)
    write_json(
        file,
        {
            "task": question.task,
            "seed": question.seed,
            "method": cell.arm.method,
            "learning_rate": cell.arm.learning_rate,
            "asked": cell.steps,
            "steps": 0 if cell.steps == 0 else work.steps,
            "losses": {part: mean_of(each) for part, each in examples.items()},
            "examples": {part: each for part, each in examples.items() if part in BY_EXAMPLE},
            "failed": failed,
            "flops": observer.flops_spent(),
            "training_seconds": round(trained - began, 2),
            "measuring_seconds": round(time.process_time() - trained, 2),
            "curve": [round(loss, 5) for loss in work.journal.losses],
        },
    )


def losses_of(trainer: Any, work: Any, unseen: Any) -> dict[str, list[tuple[float, int]]]:
    """(nats, trained tokens) of each validation row, of general text, and of either half of the unseen rows.
    The longest are measured first, alike ones together.
    """
    held, general = work.held_out["validation"], work.held_out["general_holdout"]
    parts = {
        VALIDATION: (held, range(len(held))),
        "general": (general, range(min(len(general), GENERAL_ROWS))),
    }
    if unseen is not None:
        parts |= {name: (unseen, range(half, len(unseen), 2)) for half, name in enumerate(HALVES)}
    found = {}
    for name, (examples, ordinals) in parts.items():
        bins = [[each] for each in sorted(ordinals, key=lambda each: -examples.lengths[each])]
        losses = trainer.losses_by_example(examples, bins, AT_ONCE)
        found[name] = [(round(losses[each], 4), int(examples.trained[each])) for each in ordinals]
    return found


def mean_of(examples: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """(nats a trained token, examples)."""
    return sum(nats for nats, _ in examples) / sum(tokens for _, tokens in examples), len(examples)


def training_run(question: Question, cell: Cell, output: Path) -> Any:
    """What the trainer is asked for: as planned, but for the rate, the steps, and its own measuring."""
    from ft_dagster.training.contract import Base, Member, Plan, TrainingRun

    plan = question.plans[cell.arm.method]
    training = {
        **plan["training"],
        "learning_rate": cell.arm.learning_rate,
        "max_steps": cell.steps or None,
        "watch": {"budget": 0.001},
        "on_bad_rate": "warn",  # so that each is known to its end
        "evaluations": 1,
        "keep_best": 1,
        "keep_last": 1,
    }
    member = Member(
        variant=f"bench.{question.task}-{question.seed}",
        mixture=Path(question.mixture),
        mixture_digest=question.mixture_digest,
        plan=Plan.model_validate({"method": plan["method"], "training": training}),
        seed=question.seed,
        output=output,
    )
    base = Base(folder=Path(question.base), digest=question.base_digest)
    looks = output.parent / "first_looks"
    return TrainingRun(run_id="bench", base=base, members=(member,), first_looks=looks)
