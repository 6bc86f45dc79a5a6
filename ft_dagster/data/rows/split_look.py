"""Foresees which rows fall into which split, before a data set is made."""

from __future__ import annotations

from collections import Counter

from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.splits import SplitGroups, group_key, position_of_normal, shares_of, split_at
from ft_dagster.spec.data import SplitsSpec


class SplitLook:
    """Places different rows as a data set does that leaves out equal rows and no others."""

    def __init__(self) -> None:
        self._groups = SplitGroups()
        self._places: dict[bytes, tuple[bytes, float]] = {}  # of a row's likeness

    def add(self, *rows: Row) -> None:
        """Take up rows; an equal one changes nothing but which groups are joined."""
        for row in rows:
            turn = row.first_turn
            if row.group is not None:
                self._groups.join(turn, row.group)
            self._places.setdefault(row.likeness, (group_key(turn, row.group), position_of_normal(turn)))

    def positions(self) -> tuple[float, ...]:
        """Return where in [0, 1) each different row falls, see `split_at`."""
        return tuple(self._groups.position(key, fallback) for key, fallback in self._places.values())

    def rows_by_split(self, splits: SplitsSpec, unplaced: int = 0) -> dict[str, float]:
        """Return how many rows fall into each split; of rows counted but not placed, its share."""
        fallen = Counter(split_at(position, splits) for position in self.positions())
        return {split: fallen[split] + unplaced * share for split, share in shares_of(splits).items()}
