"""The test split is dealt into disjoint sets by content: no row moves another, and rows that belong together
stay together.
"""

from __future__ import annotations

from collections import Counter

from ft_dagster.data.rows.splits import sets_of

TURNS = [f"where is thing number {n}?" for n in range(3000)]


def set_of(turn: str, group: str | None, sets: int) -> int:
    """The set of a row alone."""
    (alone,) = sets_of([(turn, group)], sets, joined=True)
    assert [alone] == sets_of([(turn, group)], sets, joined=False)
    return alone


def test_each_row_is_in_one_set_whatever_rows_there_are() -> None:
    alone = {turn: set_of(turn, None, 4) for turn in TURNS}
    assert {turn: set_of(turn, None, 4) for turn in reversed([*TURNS, "another"]) if turn in alone} == alone
    assert set(alone.values()) == {1, 2, 3, 4}


def test_sets_are_about_as_large_as_each_other() -> None:
    sizes = Counter(set_of(turn, None, 4) for turn in TURNS)
    assert max(sizes.values()) < 1.2 * min(sizes.values())


def test_rows_of_one_group_are_in_one_set() -> None:
    assert len({set_of(turn, "customer 7", 4) for turn in TURNS}) == 1


def test_sets_ask_no_first_turn_in_common_where_groups_share_some() -> None:
    """A hundred customers ask two each of sixty questions for each of forty products."""
    rows = [
        (f"how do I reset {product}, in way {(customer + 7 * n) % 6}?", f"customer {customer} of {product}")
        for product in range(40)
        for customer in range(10)
        for n in range(2)
    ]
    asked = {
        joined: [
            {
                turn
                for (turn, _), number in zip(rows, sets_of(rows, 2, joined=joined), strict=True)
                if number == part
            }
            for part in (1, 2)
        ]
        for joined in (False, True)
    }
    assert asked[False][0] & asked[False][1]
    assert not asked[True][0] & asked[True][1]
    assert all(asked[True])
    groups = list(zip((group for _, group in rows), sets_of(rows, 2, joined=True), strict=True))
    assert len({*groups}) == len({group for group, _ in groups})


def test_rows_whose_groups_share_no_turn_are_dealt_as_each_alone() -> None:
    rows = [(turn, f"group {n // 3}" if n % 2 else None) for n, turn in enumerate(TURNS)]
    assert sets_of(rows, 4, joined=True) == sets_of(rows, 4, joined=False)
