"""Decides what a training measures at each look, within its budget, and what is said of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

from ft_dagster.data.rendering.chat_rules import chat_rules
from ft_dagster.evaluation.degeneration import WATCHED
from ft_dagster.methods import method_of
from ft_dagster.training import ranks
from ft_dagster.training.batches.attention import attends_by_example
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin
from ft_dagster.training.contract import Member, TrainingRun
from ft_dagster.training.methods import packs
from ft_dagster.training.watch import degeneration, flops, forgetting
from ft_dagster.training.watch.budget import (
    ENDS,
    FEWEST,
    Allotment,
    Attends,
    Costs,
    Figure,
    ForwardWork,
    Limited,
    Split,
    allot,
    forward_share,
    work_of,
)
from ft_dagster.training.watch.first_look import FirstLooks, first_looks
from ft_dagster.training.watch.flops import FlopsModel
from ft_dagster.training.watch.held_out import HeldOutBlock, HeldOutSample, blocks_of

TOKENS = FlopsModel(1, 0, 0)  # the unit where FLOPs cannot be counted
NAMES: dict[Figure, str] = {
    "validation": "validation loss",
    "general_holdout": "general holdout loss",
    "benchmark": "general benchmark",
    "degeneration": "general prompts",
}
UNITS: dict[Split, str] = {"validation": "examples", "general_holdout": "texts"}


@dataclass(frozen=True)
class Measuring:
    """Holds what is measured at each look. `samples`: by split of the mixture. `flops`: of a training, None
    where they cannot be counted; `share`: of a forward pass in it. `training`: FLOPs of all steps, or their
    tokens. `prompts`: work of the general prompts, None where the model cannot answer. `attends`: see
    `budget.Attends`.
    """

    allotment: Allotment
    samples: Mapping[Split, HeldOutSample]
    benchmark: forgetting.Benchmark | None
    prompts: ForwardWork | None
    first: FirstLooks
    flops: FlopsModel | None
    share: float
    training: float
    attends: Attends

    def due(self, figure: Figure, *, end: bool) -> bool:
        """Say whether a figure is measured at a look; `end`: at step 0, or of the exported model."""
        found = self.allotment
        between: dict[Figure, bool] = {
            "validation": True,
            "general_holdout": found.general_between,
            "benchmark": found.questions_between,
            "degeneration": found.generation_between,
        }
        return end or between[figure]

    def cost(self, work: ForwardWork) -> float:
        """Return the cost of a forward pass, in the unit of `training`."""
        return _cost(self.flops, self.share, work)

    def cost_of(self, bins: list[Bin], examples: Examples) -> float:
        """Return the cost of a look at these bins."""
        return self.cost(work_of(bins, examples, self.attends))

    def words(self) -> dict[str, str]:
        """Return figure -> on what it is measured, and at which looks."""
        said = {
            NAMES[split]: f"on {self.samples[split]} {unit}{self._when(split)}"
            for split, unit in UNITS.items()
            if split in self.samples
        }
        if self.benchmark is not None:
            said[NAMES["benchmark"]] = f"on {self.benchmark.asked}{self._when('benchmark')}"
        if self.prompts is not None:
            said[NAMES["degeneration"]] = f"on {len(WATCHED)} prompts{self._when('degeneration')}"
        return said

    def sentence(self) -> str:
        """Say all of it in one line, with what it takes."""
        found = self.allotment
        listed = "; ".join(f"{figure} {how}" for figure, how in self.words().items())
        unit = "FLOPs" if self.flops else "tokens"
        count = f"{found.evaluations} evaluation{'s' * (found.evaluations > 1)}"
        return f"measuring takes {self._share(found.spent)} of the training's {unit}, {count}: {listed}"

    def warning(self) -> str | None:
        """Say what is above the budget, by how much, and why it is measured all the same; None within it."""
        found = self.allotment
        if not found.over or found.allowed is None:
            return None
        budget = self._share(found.allowed)
        parts = ", ".join(f"{NAMES[name]} {self._share(part)}" for name, part in found.parts.items() if part)
        return (
            f"measuring is above its budget of {budget} (training.watch.budget): {parts}. "
            f"Fewer than {FEWEST} examples of each would say little, and questions and limits are as declared"
        )

    def _share(self, cost: float) -> str:
        return f"{cost / self.training:.1%}"

    def _when(self, figure: Figure) -> str:
        return "" if self.due(figure, end=False) else ", at the first and the last look"


def plan_measuring(
    run: TrainingRun,
    member: Member,
    tokenizer: Any,
    *,
    train: tuple[Examples, list[Bin]],
    held_out: Mapping[Split, Examples],
    evaluations: Sequence[int],
) -> Measuring:
    """Plan what fits into the budget of a training over these bins. Raises UserError where a benchmark cannot
    be read. `evaluations`: see `allot`. The benchmark is the first rank's; all have the same allotment.
    """
    settings = member.plan.training
    watch, checkpointing = settings.watch, settings.gradient_checkpointing
    first = first_looks(run, member, chat_rules(tokenizer))
    counted = _counted(run, member, first)
    share = forward_share(member.plan.method, gradient_checkpointing=checkpointing)
    attends = attends_by_example(
        AutoConfig.from_pretrained(run.base.folder), packs=method_of(member.plan.method.name).packs
    )
    training = float((counted or TOKENS).sum(*work_of(train[1], train[0], attends)))
    allowed = None if watch.budget is None else watch.budget * training
    can_generate = settings.deepspeed.stage != 3  # else no rank alone has the weights
    benchmark = forgetting.benchmark_of(run, member) if can_generate and ranks.is_first() else None
    questions = ranks.agree(lambda: ForwardWork(0, 0, 0) if benchmark is None else benchmark.work)
    answers = can_generate and not member.by_example
    prompts = degeneration.work(tokenizer) if answers else None

    def sampled(split: Split, looks: int) -> list[tuple[HeldOutBlock, float]]:
        if split not in held_out:
            return []
        examples = held_out[split]
        capacity = settings.max_length if packs(member.plan) else None
        most = None if allowed is None else allowed / looks
        costs = (
            (b, _cost(counted, share, work_of(b.bins, examples, attends)))
            for b in blocks_of(examples, capacity)
        )
        return list(_up_to(costs, most))

    looks: dict[Split, int] = {"validation": evaluations[-1] + 1, "general_holdout": ENDS}
    blocks = {split: sampled(split, count) for split, count in looks.items()}
    costs = Costs(
        _summed(blocks["validation"]),
        _summed(blocks["general_holdout"]),
        _cost(counted, share, questions),
        0.0 if prompts is None else _cost(counted, share, prompts),
    )
    found = allot(costs, evaluations, allowed, _limited(member))
    counts = {"validation": found.validation, "general_holdout": found.general}
    samples = {
        split: HeldOutSample(held_out[split], tuple(b for b, _ in known if b.upto <= counts[split]))
        for split, known in blocks.items()
        if known
    }
    return Measuring(found, samples, benchmark, prompts, first, counted, share, training, attends)


def _counted(run: TrainingRun, member: Member, first: FirstLooks) -> FlopsModel | None:
    """Return the FLOPs of a training; what another training of the base counted, on shapes alone, is kept
    beside its looks.
    """
    method, checkpointing = member.plan.method, member.plan.training.gradient_checkpointing
    what = {"flops": {"method": method.model_dump(mode="json"), "gradient_checkpointing": checkpointing}}
    kept = first.read(what)
    if kept is not None:
        return FlopsModel(**kept)
    counted = flops.count_flops(run.base, method, gradient_checkpointing=checkpointing)
    if counted is not None and ranks.is_first():
        first.write(what, counted.as_dict())
    return counted


def _limited(member: Member) -> set[Limited]:
    watch = member.plan.training.watch
    found: set[Limited] = set()
    if watch.general_loss_limit is not None:
        found.add("general")
    if watch.benchmark_limit is not None:
        found.add("questions")
    return found


def _cost(counted: FlopsModel | None, share: float, work: ForwardWork) -> float:
    return share * (counted or TOKENS).sum(*work)


def _up_to(
    costs: Iterator[tuple[HeldOutBlock, float]], most: float | None
) -> Iterator[tuple[HeldOutBlock, float]]:
    """Yield the blocks that `most` pays for, and one more: no other can be measured."""
    spent = 0.0
    for block, cost in costs:
        yield block, cost
        spent += cost
        if most is not None and spent > most:
            return


def _summed(blocks: list[tuple[HeldOutBlock, float]]) -> dict[int, float]:
    """Return size of a sample -> cost of one look at it."""
    found, spent = {}, 0.0
    for block, cost in blocks:
        spent += cost
        found[block.upto] = spent
    return found
