"""Makes splits of examples that a test spells out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from ft_dagster.training.batches.mixture import Examples


def examples_of(rows: Sequence[Sequence[int]], spans: Sequence[Sequence[int]] | None = None) -> Examples:
    """A split of these examples; the second half of each is trained on, unless said otherwise."""
    spans = spans or [[max(1, len(row) // 2), len(row)] for row in rows]
    starts, span_starts = (np.cumsum([0, *map(len, each)]).astype(np.int64) for each in (rows, spans))
    tokens, flat = (np.array(list(chain(*each)), np.int32) for each in (rows, spans))
    return Examples(tokens, starts, flat, span_starts, (len(rows),))
