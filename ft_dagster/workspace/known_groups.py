"""Knows the groups of all rows of a variant: a test split of few groups may have none of the largest."""

from __future__ import annotations

import math

from ft_dagster.data.files.parquet import count_of, rows_of
from ft_dagster.data.rows.splits import SPLITS
from ft_dagster.provenance.findings import remembered
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec
from ft_dagster.store import Artifact
from ft_dagster.workspace.build_context import BuildContext


def largest_group(
    context: BuildContext, dataset: Artifact, asked: EvaluationSpec, gates: GatesSpec
) -> int | None:
    """Return how many questions of the largest group of the rows may be asked, where the test split is asked,
    its questions count by size, and groups differ in it; else None. Of a part of the split it is in
    proportion.
    """
    if asked.task or gates.weights == "group":
        return None
    largest, smallest, rows = remembered(
        context.cache, {"groups": 1, "data set": dataset.digest}, lambda: _sizes(context, dataset)
    )
    if largest == smallest:
        return None
    share = min(1.0, asked.most / rows) if asked.most is not None and rows else 1.0
    return max(1, math.ceil(largest * share - 1e-9))


def _sizes(context: BuildContext, dataset: Artifact) -> tuple[int, int, int]:
    """Return the questions of the largest and of the smallest group of all rows, and the test rows. A row
    without a group is one by itself.
    """
    sizes = set[int]()
    folder = context.payload(dataset)
    for split in SPLITS:
        query = 'histogram("group")', 'count(*) > count("group")'
        [[(groups, alone)]] = rows_of(folder / f"{split}.parquet", *query)
        sizes |= {*(groups or {}).values(), *((1,) if alone else ())}
    return max(sizes, default=1), min(sizes, default=1), count_of(folder / "test.parquet")
