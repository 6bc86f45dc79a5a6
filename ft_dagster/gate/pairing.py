"""Pairs the values of two models on the same questions of a task, by the one metric that it is judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from ft_dagster.errors import UserError
from ft_dagster.gate.groups import BY_SIZE, Counting
from ft_dagster.gate.paired import Comparison, compare_paired, not_a_number
from ft_dagster.gate.power import LOSS_BOUND
from ft_dagster.gate.samples import DEGENERATE, FORMER, Role, Sample, main_metric
from ft_dagster.spec.variant import GatesSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OWN_ROLES: tuple[Role, ...] = ("task", "test_split_task")  # whose groups count as `gates.weights` says
AGAIN = "Evaluate both with the same tasks, limit and seed"
TaskKey = tuple[Role, str]
Questions = dict[str, dict[str, Sample]]  # metric -> question -> sample


@dataclass(frozen=True)
class Paired:
    """Holds one task's values by one metric: of base and tuned model on the same questions.

    `asked`: the tuned model's samples, in the order of the values. `scale`: see `bound`, of all values of the
    base. `places`: of each question in the order of asking; None: there is none. `answered`: so many of the
    task's questions were, whatever metrics they have. `counts`: up to how many nats a loss's change does.
    `counting`: how groups of questions do.
    """

    role: Role
    task: str
    metric: str
    base: NDArray[np.float64]
    tuned: NDArray[np.float64]
    asked: tuple[Sample, ...]
    scale: float | None
    places: NDArray[np.int64] | None = None
    answered: int = 0
    counts: float = LOSS_BOUND
    counting: Counting = BY_SIZE

    @property
    def higher_is_better(self) -> bool:
        return self.asked[0].higher_is_better

    @property
    def means(self) -> tuple[float, float]:
        base, tuned = (self.counting.mean(side, _dependent(self.asked)) for side in (self.base, self.tuned))
        return base, tuned

    @property
    def bound(self) -> float | None:
        """Return by how much the value of a question can change: as far as 0 to 1, or 0 to 100; None: not
        known. A loss can by any number, and counts up to `counts`.
        """
        low, high = min(self.base.min(), self.tuned.min()), max(self.base.max(), self.tuned.max())
        return _bound(self.metric, low, high, self.counts)

    def compare(self, level: float, tail: float | None = None) -> Comparison:
        """Compare the two models at a level. `tail`: see `Allowed`."""
        import numpy as np

        if not np.isfinite(np.concatenate([self.base, self.tuned])).all():
            return not_a_number(len(self.base))
        better = (self.tuned - self.base) * (1 if self.higher_is_better else -1)
        return compare_paired(
            better,
            _dependent(self.asked),
            bound=self.bound,
            level=level,
            tail=tail,
            counting=self.counting,
        )

    def first(self, count: int) -> Paired:
        """Return the pair cut to the first `count` questions of the task, in the order of asking, that have
        this metric.
        """
        if self.places is None:
            raise ValueError("the questions stand in no order")
        kept = int(self.places.searchsorted(count))
        return replace(
            self,
            base=self.base[:kept],
            tuned=self.tuned[:kept],
            asked=self.asked[:kept],
            places=self.places[:kept],
            answered=min(count, self.answered),
        )

    def out_of(self, there: int) -> Paired:
        """Return the pair as a part of so many questions: of the largest group that is known, as many are
        asked in proportion.
        """
        return replace(self, counting=self.counting.asked(self.answered / there))


def by_task(samples: Iterable[Sample], *, roles: Collection[Role]) -> dict[TaskKey, Questions]:
    """Group the samples of these roles: (role, task) -> metric -> question -> sample."""
    found: dict[TaskKey, Questions] = {}
    for sample in samples:
        if sample.role in roles and (sample.role != "general_prompts" or sample.metric == DEGENERATE):
            metrics = found.setdefault((sample.role, sample.task), {})
            metrics.setdefault(sample.metric, {})[sample.question] = sample
    return found


def names_of(role: Role, task: str) -> tuple[str, ...]:
    """Return what declarations may call a task: the test split's may have the name that it has in older
    stores.
    """
    former = [old for old, now in FORMER.items() if role == now]
    return (task, *former)


def judged_metric(key: TaskKey, metrics: Iterable[str], gates: GatesSpec) -> str:
    """Return the metric of `metrics` that the task is judged by: the declared one, else its main one."""
    declared = (gates.metrics[name] for name in names_of(*key) if name in gates.metrics)
    return next(declared, None) or main_metric(list(metrics))


def pair(
    key: TaskKey,
    metric: str,
    before: Questions,
    after: Questions,
    *,
    gates: GatesSpec,
    order: Sequence[str] | None = None,
) -> Paired:
    """Pair the values of a task by `metric`. Raises UserError where a question was asked of one model only.

    `order`: of the task's questions, where asking may end early: the tuned model was asked the first of them.
    """
    asked, answered = before.get(metric, {}), after.get(metric, {})
    if order is None:
        missing = len(asked.keys() ^ answered.keys())
        questions = sorted(answered)
    else:
        every = {question for samples in after.values() for question in samples}
        first = order[: len(every)]
        missing = len(every ^ set(first)) + len({q for q in first if q in asked} ^ answered.keys())
        questions = [question for question in first if question in answered]
    if missing or not questions:
        raise UserError(
            f"{missing or 'all'} questions of {key[1]} ({metric}) were not asked of both models",
            field=key[0],
            fix=AGAIN,
        )
    paired = _paired(key, metric, asked, answered, questions, counts=gates.loss_bound)
    if key[0] in OWN_ROLES:
        paired = replace(paired, counting=Counting.of(gates))
    if order is None:
        return paired
    return replace(paired, places=_places(questions, order), answered=len(every))


def _paired(
    key: TaskKey,
    metric: str,
    asked: dict[str, Sample],
    answered: dict[str, Sample],
    questions: Sequence[str],
    *,
    counts: float,
) -> Paired:
    import numpy as np

    base = np.array([asked[q].value for q in questions])
    tuned = np.array([answered[q].value for q in questions])
    every = [sample.value for sample in asked.values()]
    samples, scale = tuple(answered[q] for q in questions), _bound(metric, min(every), max(every), counts)
    return Paired(*key, metric, base, tuned, samples, scale, counts=counts)


def _places(questions: Sequence[str], order: Sequence[str]) -> NDArray[np.int64]:
    import numpy as np

    place = {question: n for n, question in enumerate(order)}
    return np.array([place[question] for question in questions])


def is_loss(metric: str) -> bool:
    """Say whether a metric is a loss, in nats a token."""
    return metric.endswith("_loss")


def _bound(metric: str, low: float, high: float, counts: float) -> float | None:
    if is_loss(metric):
        return counts
    return None if low < 0 or high > 100 else 1.0 if high <= 1 else 100.0


def _dependent(asked: Sequence[Sample]) -> tuple[str | None, ...]:
    """Return what each question depends on: of equal ones, each other, whatever their groups; else its
    group.
    """
    contents = [_content(sample.question) for sample in asked]
    often = Counter(contents)
    return tuple(
        f"equal to {content}" if often[content] > 1 else sample.group
        for content, sample in zip(contents, asked, strict=True)
    )


def _content(question: str) -> str:
    """Return a question's id without its number among its equals: `task:3:abc` is `task:abc`."""
    before, _, identity = question.rpartition(":")
    return f"{before.rpartition(':')[0]}:{identity}"


def shared_pairs(
    before: Mapping[TaskKey, Questions],
    after: Mapping[TaskKey, Questions],
    gates: GatesSpec,
    order: Mapping[TaskKey, Sequence[str]],
) -> list[Paired]:
    """Pair the tasks of which both were asked something, on the questions that both were asked; of a task in
    `order` as far as both were asked in it.
    """
    found = []
    for key, metrics in after.items():
        metric, there = judged_metric(key, metrics, gates), before.get(key, {})
        questions = order.get(key)
        shared = there.get(metric, {}).keys() & metrics[metric].keys()
        if questions is not None:
            both = _every(there) & _every(metrics)
            shared = set(takewhile(both.__contains__, questions))
        sides = [only(shared, side, metric if questions is None else None) for side in (there, metrics)]
        if sides[0].get(metric):
            found.append(pair(key, metric, sides[0], sides[1], gates=gates, order=questions))
    return found


def _every(metrics: Questions) -> set[str]:
    return {question for samples in metrics.values() for question in samples}


def only(questions: Collection[str], metrics: Questions, metric: str | None) -> Questions:
    """Keep these questions of `metric`, None: of all."""
    return {
        name: {question: sample for question, sample in samples.items() if question in questions}
        for name, samples in metrics.items()
        if metric in (None, name)
    }
