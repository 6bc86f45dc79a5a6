"""A row's split depends on its first user turn and the shares alone."""

from __future__ import annotations

from collections import Counter

import pytest

from ft_dagster.data.rows.splits import check_sizes, position_of, split_at
from ft_dagster.errors import UserError
from ft_dagster.spec.data import SplitsSpec

SPLITS = SplitsSpec(validation=0.2, test=0.1, minimum=8)


def split_of(turn: str, splits: SplitsSpec) -> str:
    return split_at(position_of(turn), splits)


def test_case_and_spacing_of_the_first_turn_do_not_matter() -> None:
    turns = [f"What  is item {i}?" for i in range(50)]
    plain = [split_of(turn, SPLITS) for turn in turns]
    assert plain == [split_of(turn.upper().replace(" ", "\n"), SPLITS) for turn in turns]


def test_the_shares_are_met_over_many_rows() -> None:
    counts = Counter(split_of(f"question {i}", SPLITS) for i in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["validation"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_a_share_of_zero_gives_no_row() -> None:
    splits = SplitsSpec(validation=0.0, test=0.0)
    assert {split_of(f"question {i}", splits) for i in range(1000)} == {"train"}


def test_a_larger_test_share_moves_no_row_out_of_the_test_split() -> None:
    larger = SplitsSpec(validation=0.2, test=0.2)
    turns = [f"question {i}" for i in range(1000)]
    assert all(split_of(t, larger) == "test" for t in turns if split_of(t, SPLITS) == "test")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_below_the_minimum_is_refused(split: str) -> None:
    rows = {"train": 100, "validation": 20, "test": 10, split: 7}
    with pytest.raises(UserError) as caught:
        check_sizes(rows, SPLITS, file="acme/support.yaml")
    assert f"the {split} split would have 7 rows" in caught.value.problem
    assert caught.value.field == "data.splits.minimum"


def test_a_split_that_was_not_asked_for_may_be_empty() -> None:
    check_sizes({"train": 100, "validation": 0, "test": 0}, SplitsSpec(validation=0.0, test=0.0))
