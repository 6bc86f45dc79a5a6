"""Questions that an ancestor was trained on are left out before any are drawn."""

from __future__ import annotations

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.left_out import drawn_of, without
from ft_dagster.gate.sampling import draw_questions

PARTS = {"a": [f"0:{n:032x}" for n in range(30)], "b": [f"0:{n:032x}" for n in range(30, 50)], "c": []}


@pytest.mark.parametrize("limit", [None, 1, 7, 20, 100])
def test_where_nothing_is_left_out_the_same_are_drawn(limit: int | None) -> None:
    asked = without(PARTS, None, "t")
    assert drawn_of(PARTS, asked, limit, 3) == draw_questions(PARTS, limit, 3)


def test_numbers_count_over_all_parts_and_others_take_their_place() -> None:
    gone = {"a": {2, 3}, "b": {0, 19}}
    asked = without(PARTS, {"of": 50, "numbers": [2, 3, 30, 49]}, "t")
    assert asked == {
        name: [n for n in range(len(ids)) if n not in gone.get(name, ())] for name, ids in PARTS.items()
    }
    drawn = drawn_of(PARTS, asked, 40, 3)
    assert sum(map(len, drawn.values())) == 40
    assert not any(gone[name] & {*numbers} for name, numbers in drawn.items())
    assert {*drawn["a"]} <= {*range(30)}


def test_a_task_of_another_number_of_questions_is_an_error() -> None:
    with pytest.raises(UserError, match="another number of questions"):
        without(PARTS, {"of": 49, "numbers": [2]}, "t")
