"""The test split is dealt into disjoint sets by content: no row moves another, and rows that belong together
stay together.
"""

from __future__ import annotations

from collections import Counter

from ft_dagster.data.rows.splits import set_of

TURNS = [f"where is thing number {n}?" for n in range(3000)]


def test_each_row_is_in_one_set_whatever_rows_there_are() -> None:
    alone = {turn: set_of(turn, None, 4) for turn in TURNS}
    assert {turn: set_of(turn, None, 4) for turn in reversed([*TURNS, "another"]) if turn in alone} == alone
    assert set(alone.values()) == {1, 2, 3, 4}


def test_sets_are_about_as_large_as_each_other() -> None:
    sizes = Counter(set_of(turn, None, 4) for turn in TURNS)
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_rows_of_one_group_are_in_one_set() -> None:
    assert len({set_of(turn, "customer 7", 4) for turn in TURNS}) == 1
