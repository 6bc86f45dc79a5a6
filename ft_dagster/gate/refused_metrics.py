"""Refuses metrics that a task does not list, and rules that nothing was measured for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from ft_dagster.errors import UserError
from ft_dagster.gate.pairing import names_of
from ft_dagster.gate.samples import FORMER, RESERVED, TEST_SPLIT_TASK, Sample
from ft_dagster.spec.validation import nearest
from ft_dagster.spec.variant import GatesSpec, VariantSpec


def check_metrics(samples: Iterable[Sample], gates: GatesSpec, declared_in: object = None) -> None:
    """Raises UserError for a gate on what was not measured: a metric that its task does not have, a task that
    is not asked, regurgitation where nothing was probed.
    """
    samples = list(samples)
    if gates.max_regurgitation is not None and not any(s.role == "regurgitation" for s in samples):
        raise UserError(
            "no training row is probed: none is long enough, or none is asked for",
            file=declared_in,
            field="gates.max_regurgitation",
            value=gates.max_regurgitation,
            fix="Declare evaluation.probed_rows or evaluation.canaries, or leave the gate out",
        )
    offered: dict[str, dict[str, None]] = {}
    for sample in samples:
        for name in names_of(sample.role, sample.task):
            offered.setdefault(name, {})[sample.metric] = None
    refuse_unmeasured(offered, gates.metrics, declared_in)


def refuse_unmeasured(
    offered: Mapping[str, Collection[str]], metrics: Mapping[str, str], declared_in: object = None
) -> None:
    """Raises UserError for a metric that its task does not have, of those `offered`, or a task that is not
    there.
    """
    for task, metric in metrics.items():
        if metric in offered.get(task, ()):
            continue
        known = task in offered
        ask_it = f"Asked are: {', '.join(offered)}. Name one of these, or ask it by evaluation.general"
        raise UserError(
            "the task has no such metric per question" if known else "no such task is asked",
            file=declared_in,
            field=f"gates.metrics.{task}",
            value=metric if known else task,
            fix=f"It has: {', '.join(offered[task])}" if known else nearest(task, list(offered), ask_it),
        )


def refuse_unlisted(
    tasks: Mapping[str, Collection[str]], spec: VariantSpec, declared_in: object = None
) -> None:
    """Raises UserError as `refuse_unmeasured`, before anything was asked. `tasks`: the metrics of each
    declared task; none of one of which they are not known.
    """
    unknown = RESERVED | {task for task, names in tasks.items() if not names}
    offered = {**tasks}
    if spec.evaluation.task:  # in place of the test split
        unknown -= {TEST_SPLIT_TASK, *FORMER}
    else:
        offered[TEST_SPLIT_TASK] = ()
    known = {task: metric for task, metric in spec.gates.metrics.items() if task not in unknown}
    refuse_unmeasured(offered, known, declared_in)
