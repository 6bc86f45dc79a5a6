"""Decides the budget of measuring: on how many examples, and at which looks, what a share of the training
pays for.

Pure functions. A look is step 0, each evaluation, or the exported model. Figures are served in an order: the
fewest examples of each and what a limit needs at every look, at as many evaluations as that leaves; then more
examples, then more looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from ft_dagster.methods import method_of
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.training.batches.beginnings import Part, computed, pairs
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin

FEWEST = 8  # examples of a split: of fewer, a mean says little
ENDS = 2  # looks of what is measured of the base and of the exported model alone
Attends = Callable[[int], bool]  # whether by example, where the longest has so many tokens
Split = Literal["validation", "general_holdout"]  # of a mixture
Figure = Literal[Split, "benchmark", "degeneration"]  # what is measured at a look
Limited = Literal["general", "questions"]  # what `general_loss_limit` and `benchmark_limit` need at each look


class ForwardWork(NamedTuple):
    """Counts what is computed, as `FlopsModel.sum` takes it."""

    slots: int
    squares: int
    trained_tokens: int
    rows: int = 0
    micro_batches: int = 0


def work_of_micro_batch(bins: Sequence[Bin], examples: Examples, attends: Attends) -> ForwardWork:
    """Count the work of bins side by side, the padding of the shorter ones included."""
    if examples.beginnings is not None:
        return _work_of_parts([examples.parts(ordinals) for ordinals in bins], examples, attends)
    chosen = [np.array(ordinals, np.int64) for ordinals in bins]
    lengths = [examples.lengths[ordinals] for ordinals in chosen]
    width = max(2, *(int(each.sum()) for each in lengths))
    by_example = attends(max(int(each.max(initial=0)) for each in lengths))
    squares = sum(int((each**2).sum()) for each in lengths) if by_example else len(bins) * width**2
    trained = sum(int(examples.trained[ordinals].sum()) for ordinals in chosen)
    return ForwardWork(len(bins) * width, squares, trained, len(bins), 1)


def _work_of_parts(rows: Sequence[Sequence[Part]], examples: Examples, attends: Attends) -> ForwardWork:
    width = max(2, *map(computed, rows))
    by_example = attends(max((part.end for row in rows for part in row), default=0))
    lengths = [[part.end - part.start for part in row] for row in rows]
    attended = (pairs(sizes, [part.after for part in row]) for sizes, row in zip(lengths, rows, strict=True))
    squares = sum(attended) if by_example else len(rows) * width**2
    labels = sum(examples.labels_in(row) for row in rows)
    return ForwardWork(len(rows) * width, squares, labels, len(rows), 1)


def work_of(bins: Sequence[Bin], examples: Examples, attends: Attends) -> ForwardWork:
    """Count the work of these bins one by one, so that no micro-batch's padding counts; nor do passes."""
    each = [work_of_micro_batch([ordinals], examples, attends) for ordinals in bins]
    return ForwardWork(*map(sum, zip(*each, strict=True)))._replace(micro_batches=0)


def forward_share(method: MethodSettings, *, gradient_checkpointing: bool) -> float:
    """Return a forward pass's share of what a training does at the same positions, in multiplications a
    weight: 2 forward, 2 for the gradients of activations, 2 for those of weights that are trained, 2 where it
    is recomputed.
    """
    trained = 0 if method_of(method.name).freezes else 2
    return 2 / (4 + trained + (2 if gradient_checkpointing else 0))


def prefixes(count: int) -> Iterator[int]:
    """Yield the sizes that a sample of `count` examples may have: 8, doubled while it is less than all, and
    all.

    Two trainings on the same rows then share a prefix, on which they can be compared.
    """
    size = FEWEST
    while size < count:
        yield size
        size *= 2
    if count:
        yield count


@dataclass(frozen=True)
class Costs:
    """Holds the costs of one look, in any one unit: of the first n examples of a split, by n; of the
    questions; of the general prompts.
    """

    validation: Mapping[int, float] = field(default_factory=dict)
    general: Mapping[int, float] = field(default_factory=dict)
    questions: float = 0.0
    generation: float = 0.0


@dataclass(frozen=True)
class Allotment:
    """Says how many evaluations there are, examples of each split (0: there is none), and what is measured at
    the looks between as well.

    `parts`: what all looks at each take, in the unit of the costs; `allowed`: None where there is no budget.
    """

    evaluations: int
    validation: int
    general: int
    general_between: bool
    questions_between: bool
    generation_between: bool = False
    parts: Mapping[Figure, float] = field(default_factory=dict)
    allowed: float | None = None

    @property
    def spent(self) -> float:
        return sum(self.parts.values())

    @property
    def over(self) -> bool:
        """Say whether the least that is worth measuring takes more than is allowed."""
        return self.allowed is not None and self.spent > self.allowed


def allot(
    costs: Costs,
    evaluations: Sequence[int],
    allowed: float | None,
    limited: AbstractSet[Limited] = frozenset(),
) -> Allotment:
    """Decide what `allowed` pays for in a training of so many evaluations; None: everything, at every look.

    `evaluations`: the numbers to choose from, the most first; the last is taken even where it is too dear.
    `limited`: what a limit needs at every look, whatever that takes. The look at step 0 is paid for, though
    what is kept of a base may save it: the samples do not depend on what is kept.
    """
    validation, general = list(costs.validation) or [0], list(costs.general) or [0]
    if allowed is None:
        everything = Allotment(evaluations[0], validation[-1], general[-1], True, True, True)
        return replace(everything, parts=_parts(everything, costs))
    least = [
        Allotment(count, validation[0], general[0], "general" in limited, "questions" in limited)
        for count in evaluations
    ]
    found = next((each for each in least if _spent(each, costs) <= allowed), least[-1])
    for name, value in _more(validation, general, limited):
        change: dict[str, Any] = {name: value}
        tried = replace(found, **change)
        if value > getattr(found, name) and _spent(tried, costs) <= allowed:
            found = tried
    return replace(found, parts=_parts(found, costs), allowed=allowed)


def _more(
    validation: Sequence[int], general: Sequence[int], limited: AbstractSet[Limited]
) -> Iterator[tuple[str, int]]:
    """Yield (field of an allotment, its value) in the order in which they are served."""
    if "general" in limited:
        yield from (("general", size) for size in general)
    for size in sorted({*validation, *general}):
        if size in validation and size <= general[-1]:
            yield "validation", size
        if size in general:
            yield "general", size
    yield "questions_between", True
    yield "general_between", True
    yield from (("validation", size) for size in validation)


def _spent(found: Allotment, costs: Costs) -> float:
    return sum(_parts(found, costs).values())


def _parts(found: Allotment, costs: Costs) -> dict[Figure, float]:
    def looks(between: bool) -> int:
        return found.evaluations + 1 if between else ENDS

    return {
        "validation": costs.validation.get(found.validation, 0.0) * looks(True),
        "general_holdout": costs.general.get(found.general, 0.0) * looks(found.general_between),
        "benchmark": costs.questions * looks(found.questions_between),
        "degeneration": costs.generation * looks(found.generation_between),
    }
