import pytest

from ft_dagster.gate.sampling import draw_questions, draw_rows

SIZES = {"anatomy": 135, "law": 1534, "physics": 102, "virology": 166}


def ids(sizes: dict[str, int]) -> dict[str, list[str]]:
    return {name: [f"{name} {n}" for n in range(size)] for name, size in sizes.items()}


def test_the_draw_is_the_same_for_the_same_seed() -> None:
    assert draw_questions(ids({"arc": 570}), 40, 7) == draw_questions(ids({"arc": 570}), 40, 7)


def test_another_seed_draws_other_questions() -> None:
    assert draw_questions(ids({"arc": 570}), 40, 7) != draw_questions(ids({"arc": 570}), 40, 8)


def test_the_draw_is_not_the_first_questions() -> None:
    chosen = draw_questions(ids({"arc": 570}), 40, 0)["arc"]
    assert chosen != list(range(40))
    assert max(chosen) > 400


def test_indices_ascend_without_repeats() -> None:
    chosen = draw_questions(ids({"arc": 570}), 200, 0)["arc"]
    assert chosen == sorted(set(chosen))


def test_without_a_limit_every_question_is_asked() -> None:
    assert draw_questions(ids({"arc": 5}), None, 0) == {"arc": [0, 1, 2, 3, 4]}


def test_a_limit_above_the_size_asks_every_question() -> None:
    assert draw_questions(ids({"arc": 5}), 100, 0) == {"arc": [0, 1, 2, 3, 4]}


def test_a_group_shares_its_limit_by_size() -> None:
    shares = {name: len(chosen) for name, chosen in draw_questions(ids(SIZES), 100, 0).items()}
    assert sum(shares.values()) == 100
    assert all(abs(shares[name] - 100 * size / sum(SIZES.values())) < 1 for name, size in SIZES.items())


def test_a_subtask_without_a_share_is_left_out() -> None:
    assert list(draw_questions(ids({"law": 1000, "tiny": 3}), 10, 0)) == ["law"]


def test_an_empty_task_draws_nothing() -> None:
    assert draw_questions(ids({"arc": 0}), 10, 0) == {}


def test_rows_that_are_added_leave_most_questions_as_they_were() -> None:
    records = [f"record {n}" for n in range(110)]
    before = {records[n] for n in draw_rows(records[:100], 40, 3)}
    after = {records[n] for n in draw_rows(records, 40, 3)}
    assert len(before) == len(after) == 40
    assert len(before & after) > 30
    assert after - before <= set(records[100:])


def test_all_rows_are_asked_without_a_limit() -> None:
    assert draw_rows(["b", "a"], None, 0) == [0, 1]


def test_the_same_questions_are_drawn_wherever_they_stand() -> None:
    asked = ids({"arc": 200})["arc"]
    moved = ["one more", *reversed(asked)]
    before = {asked[n] for n in draw_questions({"arc": asked}, 40, 0)["arc"]}
    after = {moved[n] for n in draw_questions({"arc": moved}, 40, 0)["arc"]}
    assert len(before & after) >= 39


@pytest.mark.parametrize("limit", [None, 5, 40, 60, 100, 1000])
def test_what_chooses_is_drawn_beside_what_judges_as_far_as_there_is_any(limit: int | None) -> None:
    questions = {"one": [f"q{n}" for n in range(70)], "two": [f"r{n}" for n in range(30)]}
    judging, choosing = (draw_questions(questions, limit, 3, beyond=beyond) for beyond in (False, True))
    for name, there in questions.items():
        mine, other = set(judging.get(name, ())), set(choosing.get(name, ()))
        assert not mine & other
        assert len(other) == min(len(mine), len(there) - len(mine))
