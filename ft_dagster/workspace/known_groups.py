"""Knows the groups of all rows of a variant: a test split of few groups may have none of the largest."""

from __future__ import annotations

import math
from collections import Counter

from ft_dagster.data.files.parquet import rows_of
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
    proportion, but not of a set of the reserve, which whole groups are dealt to.
    """
    if asked.task or gates.weights == "group":
        return None
    sizes = group_sizes(context, dataset)
    every = {size for counts in sizes.values() for size in counts}
    if len(every) < 2:
        return None
    largest, rows = max(every), sum(size * count for size, count in sizes["test"].items())
    most = asked.most if asked.sets == 1 else None
    share = min(1.0, most / rows) if most is not None and rows else 1.0
    return max(1, math.ceil(largest * share - 1e-9))


def group_sizes(context: BuildContext, dataset: Artifact) -> dict[str, dict[int, int]]:
    """Return split -> questions of a group -> how many groups have so many. A row without a group is one by
    itself.
    """

    def find() -> dict[str, list[tuple[int, int]]]:
        folder, query = context.payload(dataset), ('histogram("group")', 'count(*) - count("group")')
        found = {}
        for split in SPLITS:
            [[(groups, alone)]] = rows_of(folder / f"{split}.parquet", *query)
            counts = Counter((groups or {}).values()) + Counter({1: alone})
            found[split] = sorted((int(size), int(count)) for size, count in counts.items())
        return found

    known = remembered(context.cache, {"groups": 1, "data set": dataset.digest}, find)
    return {split: dict(counts) for split, counts in known.items()}
