"""A set of the test split is fresh where no row of it was asked before, however the rows were dealt then."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from ft_dagster.data.rows.splits import sets_of
from ft_dagster.errors import UserError
from ft_dagster.lineage.reserves import Reserve, reserve_of, splits_asked
from ft_dagster.lineage.tries import Dealt, record_try, tries, try_of
from ft_dagster.store import Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact
from tests.lineage.releases import PREFIX, judged, put, weights

TEST = "0" * 64  # the file with the test rows
PARTS = tuple[int, bool, int]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


class History:
    """A variant's evaluations and releases."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def asked(self, name: str, sets: int | None, *, rows: bool = True, stored: bool = True) -> None:
        """Put weights to the questions of a declaration, as a run does; `rows`: of the test split."""
        store, questions = self.store, self.questions(sets, rows=rows)
        reserve = None
        if sets is not None:
            reserve = reserve_of(store, PREFIX, weights(name), sets, self.asked_in(sets, rows=rows))
            questions = self.questions(sets, reserve.part, rows=rows)
        ordinal = try_of(store, PREFIX, weights(name), questions)
        record_try(
            store, PREFIX, weights(name), questions, ordinal, None if reserve is None else reserve.dealt
        )
        if not stored:
            return

        def build(attempt: Attempt) -> dict[str, object]:
            (attempt.payload / "file").write_text(name + questions, "utf-8")
            return {}

        inputs = {"fine_tuned_model": weights(name), **({"task.test": TEST} if rows else {})}
        with tempfile.TemporaryDirectory() as work:
            part = {} if reserve is None else {"task.part": reserve.part}
            recipe = Recipe("evaluation", PREFIX, inputs, {"tries": ordinal, "asked": questions, **part})
            make_artifact(store, Path(work), recipe, build)

    def questions(self, sets: int | None, part: int | None = None, *, rows: bool = True) -> str:
        """The questions of a declaration."""
        return f"set {part} of {sets}, {rows}"

    def asked_in(self, sets: int, *, rows: bool = True) -> Callable[[Dealt], str]:
        """These, by the set."""
        return lambda dealt: self.questions(sets, dealt.part, rows=rows)

    def released(self, name: str) -> None:
        put(self.store, judged(self.store, name))

    def next(self, sets: int, name: str | None = None, *, rows: bool = True) -> PARTS:
        of = None if name is None else weights(name)
        found = reserve_of(self.store, PREFIX, of, sets, self.asked_in(sets, rows=rows))
        assert found.sets == sets
        return found.part, found.fresh, found.left


@pytest.fixture
def history(store: Store) -> History:
    return History(store)


def test_sets_of_two_dealings_meet_where_a_row_can_be_in_both() -> None:
    turns = [f"where is thing number {number}?" for number in range(400)]
    for few, many in ((1, 3), (2, 4), (3, 4), (4, 6)):
        alone = [(turn, None) for turn in turns]
        both = {*zip(*(sets_of(alone, sets, joined=True) for sets in (few, many)), strict=True)}
        for one, other in product(range(1, few + 1), range(1, many + 1)):
            assert Dealt(few, one).meets(Dealt(many, other)) is ((one, other) in both)


def test_each_release_moves_on_to_a_fresh_set_until_none_is_left(history: History) -> None:
    found = []
    for name in ("one", "two", "three", "four"):
        found.append(history.next(3))
        for tried in (f"{name} at first", name):  # all tries of a count have one set
            assert history.next(3) == found[-1]
            history.asked(tried, 3)
        assert history.next(3, name) == found[-1]
        history.released(name)
    assert found == [(1, True, 2), (2, True, 1), (3, True, 0), (1, False, 0)]
    assert history.next(3) == (2, False, 0)
    assert history.next(3, "two") == (2, True, 0)  # weights keep the set that judged them, as fresh as it was


def test_of_rows_that_were_asked_before_they_were_dealt_no_set_is_fresh(history: History) -> None:
    history.asked("one", None)
    assert history.next(4) == (1, False, 0)
    history.asked("two", 4)
    assert history.next(4, "two") == (1, False, 0)
    history.released("two")
    assert history.next(4) == (2, False, 0)


def test_another_number_of_sets_finds_those_that_hold_no_row_of_the_ones_that_were_asked(
    history: History,
) -> None:
    """Set 1 of 2 is sets 1 and 3 of 4."""
    history.asked("one", 2)
    assert history.next(4) == (2, True, 1)
    history.released("one")
    assert history.next(4) == (2, True, 1)
    assert history.next(3) == (1, False, 0)


def test_a_number_that_is_declared_again_counts_what_was_asked_in_between(history: History) -> None:
    history.asked("one", 4)
    history.released("one")
    assert history.next(4) == (2, True, 2)
    history.asked("two", 2)
    assert history.next(2, "two") == (2, True, 0)  # sets 2 and 4 of 4
    history.released("two")
    assert history.next(4) == (3, True, 0)
    history.asked("three", 4)
    history.released("three")
    assert history.next(4) == (1, False, 0)


def test_what_was_asked_of_other_tasks_takes_no_row_of_the_split(history: History) -> None:
    history.asked("one", None, rows=False)
    assert history.next(2) == (1, True, 1)
    history.asked("two", None, stored=False)  # killed while it was asked: nobody knows what was
    assert history.next(2) == (1, False, 0)


def test_what_released_weights_were_asked_as_two_first_tries_is_not_confused(history: History) -> None:
    history.asked("one", 2)
    history.released("one")
    history.asked("one", 2, rows=False)  # the first try of the next count, too
    assert history.next(2) == (2, True, 0)
    history.asked("new", 2)
    first, second = (Dealt(2, part, joined=True) for part in (1, 2))
    assert splits_asked(history.store, PREFIX, weights("new"), 2, second) == {(TEST, first)}
    assert splits_asked(history.store, PREFIX, weights("one"), 1, first) == set()


def test_a_name_of_two_tries_of_which_one_asked_other_tasks_asked_the_rows(history: History) -> None:
    history.asked("one", None)
    history.released("one")
    history.asked("one", None, rows=False)
    shutil.rmtree(history.store.path(f"{PREFIX}/evaluation"))
    history.asked("one", None, rows=False)
    assert history.next(2) == (1, False, 0)


def test_a_count_that_is_gone_is_refused_in_a_line_where_its_set_is_asked_for(history: History) -> None:
    history.asked("one", 2)
    shutil.rmtree(history.store.path(f"{PREFIX}/tries/lineage"))
    with pytest.raises(UserError, match="and that is not recorded"):
        history.next(2, "one")


def test_earlier_weights_that_are_asked_again_choose_no_set_for_new_ones(history: History) -> None:
    history.asked("one", 2)
    history.released("one")
    record = {"weights": weights("one"), "questions": "others", "at": "2026-01-01T00:00:00+00:00"}
    again = {
        **record,
        "reserve": {"sets": 2, "part": 1, "joined": True},
    }  # the same, judged by another metric
    history.store.write_json(f"{PREFIX}/tries/lineage/000001/000001.json", again)
    assert history.next(2) == (2, True, 0)


def test_earlier_weights_on_other_questions_are_put_to_the_set_of_the_count(history: History) -> None:
    for name in ("lost", "released"):
        history.asked(name, 3)
    history.released("released")
    for name in ("lost", "released"):
        assert history.next(3, name) == (1, True, 2)
        assert history.next(3, name, rows=False) == history.next(3) == (2, True, 1)
    history.asked("lost", 3, rows=False)
    assert history.next(3, "released", rows=False) == history.next(3) == (2, True, 1)
    assert history.next(3, "lost", rows=False) == (2, True, 1)
    history.asked("new", 3)
    history.released("new")
    assert history.next(3) == (3, True, 0)
    assert history.next(3, "new", rows=False) == (3, True, 0)


def test_records_that_say_how_many_sets_were_in_use_before_are_read(store: Store) -> None:
    folder = f"{PREFIX}/tries/lineage/000000"
    record = {"weights": weights("old"), "questions": "a", "at": "2026-01-01T00:00:00+00:00"}
    store.write_json(f"{folder}/000001.json", {**record, "reserve": {"sets": 2, "turn": 3}})
    assert reserve_of(store, PREFIX, None, 2) == Reserve(2, 2, True, 1)


def test_a_variant_that_was_asked_a_set_by_an_older_version_keeps_its_dealing(history: History) -> None:
    folder = f"{PREFIX}/tries/lineage/000000"
    record = {"weights": weights("old"), "questions": "a", "at": "2026-01-01T00:00:00+00:00"}
    assert reserve_of(history.store, PREFIX, None, 2).joined
    history.store.write_json(f"{folder}/000001.json", {**record, "reserve": {"sets": 2, "part": 1}})
    assert not reserve_of(history.store, PREFIX, None, 2).joined
    history.asked("new", 2)
    assert not reserve_of(history.store, PREFIX, None, 3).joined


def test_new_sets_are_recorded_with_their_dealing(history: History) -> None:
    history.asked("one", None)
    history.asked("two", 2)
    assert [each.reserve for each in tries(history.store, PREFIX, weights("two"))] == [Dealt(2, 1, True)]
    assert reserve_of(history.store, PREFIX, None, 2).joined
