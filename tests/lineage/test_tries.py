"""A try is an evaluation of the variant since its last release; nothing else closes the count."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.release import promote, rollback
from ft_dagster.lineage.tries import (
    Judged,
    count,
    folders_of_tries,
    held_against,
    read_folder,
    record_try,
    refuse_uncounted,
    tries,
    try_of,
)
from ft_dagster.store import Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact
from tests.lineage.releases import PREFIX, judged, put, released, weights, why


def asked(store: Store, name: str, questions: str = "questions", prefix: str = PREFIX) -> int:
    """Record that weights are put to questions, as a run does; as which try."""
    judged = Judged(held_against(store, prefix, weights(name)))
    ordinal = try_of(store, prefix, weights(name), questions, judged)
    record_try(store, prefix, weights(name), questions, ordinal, judged=judged)
    return ordinal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def test_each_retrain_since_the_last_release_is_a_try_and_a_release_closes_the_count(store: Store) -> None:
    assert [asked(store, name) for name in ("one", "two", "three")] == [1, 2, 3]
    put(store, judged(store, "three"))
    assert [asked(store, name) for name in ("four", "five")] == [1, 2]


def test_released_weights_on_the_same_questions_keep_their_ordinal_also_after_releases(store: Store) -> None:
    assert [asked(store, name) for name in ("one", "two", "one", "two")] == [1, 2, 1, 2]
    released(store, "two", "another")
    assert asked(store, "two") == 2
    assert asked(store, "new") == 1


def test_weights_that_lost_before_a_release_are_another_try_against_each_later_version(store: Store) -> None:
    released(store, "before", "production")
    assert [asked(store, name) for name in ("lost", "also")] == [1, 2]
    rollback(store, PREFIX, why("it is worse"))
    assert [asked(store, name) for name in ("lost", "also", "new")] == [1, 2, 3]  # a rollback costs no try
    promote(store, PREFIX, 2, why("it was not", "ann"), force=True)
    put(store, judged(store, "newest"))
    assert [asked(store, name) for name in ("lost", "also", "lost")] == [4, 5, 4]
    rollback(store, PREFIX, why("it is worse"))
    assert [asked(store, name) for name in ("lost", "also", "new")] == [6, 7, 8]
    promote(store, PREFIX, 3, why("it was not", "ann"), force=True)
    assert [asked(store, name) for name in ("lost", "also")] == [4, 5]
    put(store, judged(store, "lost"))
    for _ in range(2):
        assert asked(store, "lost") == 4  # released by this try, whatever is in production since
        rollback(store, PREFIX, why("it is worse"))
    for name in ("lost", "also", "new"):
        refuse_uncounted(store, PREFIX, weights(name))


def test_other_questions_for_the_same_weights_are_another_try(store: Store) -> None:
    assert [asked(store, "one", questions) for questions in ("a", "b", "a", "c")] == [1, 2, 1, 3]


@pytest.mark.slow
def test_weights_that_lost_stay_behind_all_tries_of_their_count_after_a_release(store: Store) -> None:
    losers = [f"loser {number}" for number in range(20)]
    assert [asked(store, name) for name in losers] == [*range(1, 21)]
    assert asked(store, "winner") == 21
    put(store, judged(store, "winner"))
    assert asked(store, losers[6]) == 22  # the same questions, and another version in production
    assert [asked(store, losers[6], "one probe more") for _ in range(2)] == [23, 23]
    assert asked(store, "new") == 3  # of this count, in which a loser took the first two places
    assert [asked(store, losers[3], questions) for questions in ("one probe more", "two more")] == [25, 26]
    assert asked(store, "newer") == 6
    put(store, judged(store, "newer"))
    assert asked(store, "new", "one probe more") == 7  # after the six tries of its own count
    assert asked(store, losers[0], "one probe more") == 29
    for folder in folders_of_tries(store, PREFIX):
        read_folder(store, PREFIX, folder)
    for name in (losers[6], losers[3], "new"):
        refuse_uncounted(store, PREFIX, weights(name))


def test_released_weights_on_other_questions_are_a_try_of_the_count(store: Store) -> None:
    assert [asked(store, name) for name in ("one", "two")] == [1, 2]
    put(store, judged(store, "two"))
    assert [asked(store, "two", questions) for questions in ("a", "b")] == [1, 2]


def test_killed_between_the_two_records_of_weights_that_lost_it_is_the_same_try(store: Store) -> None:
    assert [asked(store, name) for name in ("one", "two")] == [1, 2]
    put(store, judged(store, "two"))
    assert asked(store, "one", "other") == 3
    Path(store.path(f"{PREFIX}/tries/{weights('one')}/000002.json")).unlink()
    assert asked(store, "three") == 2
    assert asked(store, "one", "other") == 3
    refuse_uncounted(store, PREFIX, weights("one"))


def looked(store: Store, name: str, *, questions: str = "questions", **judged: str) -> int:
    """The same where the answers are judged by something beside the questions."""
    ordinal = try_of(store, PREFIX, weights(name), questions, Judged(judged))
    record_try(store, PREFIX, weights(name), questions, ordinal, judged=Judged(judged))
    refuse_uncounted(store, PREFIX, weights(name))
    return ordinal


def test_the_same_answers_judged_by_something_else_are_another_try(store: Store) -> None:
    assert [looked(store, "one", metric=metric) for metric in ("f1", "match", "f1", "loss")] == [1, 2, 1, 3]
    assert looked(store, "one", metric="f1", prompts="a") == 1  # which nothing was judged by before
    assert looked(store, "one", metric="f1", prompts="b") == 4
    assert [looked(store, "one", metric="f1", prompts=each) for each in "abc"] == [1, 4, 5]
    assert looked(store, "one", metric="match", prompts="a") == 2
    assert looked(store, "one", metric="match", prompts="b") == 6
    assert looked(store, "one", metric="f1") == 1  # they are no longer asked
    assert looked(store, "one", questions="others", metric="match", prompts="c") == 7
    assert looked(store, "two", metric="match", prompts="c") == 8


def test_what_was_recorded_without_that_takes_the_first_that_comes(store: Store) -> None:
    assert [asked(store, name) for name in ("one", "two")] == [1, 2]
    assert [looked(store, "one", metric=metric) for metric in ("f1", "match", "f1")] == [1, 3, 1]
    older(store, "old", "questions", at="2199-01-01T00:00:00+00:00")
    assert [looked(store, "old", metric=metric) for metric in ("f1", "match", "f1")] == [1, 4, 1]


def test_what_a_record_does_not_say_is_taken_from_what_is_known_of_its_try(store: Store) -> None:
    def by(metric: str) -> int:
        judged = Judged({"metric": metric}, lambda one: {"metric": "f1"} if one.ordinal == 1 else {})
        ordinal = try_of(store, PREFIX, weights("one"), "questions", judged)
        record_try(store, PREFIX, weights("one"), "questions", ordinal, judged=judged)
        return ordinal

    asked(store, "one")
    assert [by(metric) for metric in ("match", "f1", "match", "loss")] == [2, 1, 2, 3]


def test_two_evaluations_at_once_of_the_same_weights_by_two_metrics_are_not_one_try(store: Store) -> None:
    ordinal = try_of(store, PREFIX, weights("one"), "questions", Judged({"metric": "f1"}))
    record_try(store, PREFIX, weights("one"), "questions", ordinal, judged=Judged({"metric": "match"}))
    with pytest.raises(UserError, match="another evaluation of the variant, or a release, came meanwhile"):
        record_try(store, PREFIX, weights("one"), "questions", ordinal, judged=Judged({"metric": "f1"}))
    assert looked(store, "one", metric="f1") == 2


def test_a_count_that_is_gone_refuses_the_weights_that_it_named(store: Store) -> None:
    assert asked(store, "one") == 1
    shutil.rmtree(store.path(f"{PREFIX}/tries/lineage"))
    with pytest.raises(UserError, match="and that is not recorded"):
        asked(store, "one")


def again(store: Store) -> None:
    """Another export of weights that were released is another version, and no new weights."""
    put(store, judged(store, "merged", weights("out")))


def back_and_forth(store: Store) -> None:
    rollback(store, PREFIX, why("it is worse"))
    promote(store, PREFIX, 2, why("it was not", "ann"), force=True)


def removed(store: Store) -> None:
    """All artifacts and heads are gone, as after retention and a deleted declaration."""
    for part in ("evaluation", "model_export", "heads", "digests"):
        shutil.rmtree(store.path(f"{PREFIX}/{part}"), ignore_errors=True)


@pytest.mark.parametrize("happens", [again, back_and_forth, removed])
def test_nothing_but_a_release_of_new_weights_closes_the_count(
    store: Store, happens: Callable[[Store], object]
) -> None:
    released(store, "in", "out")
    assert [asked(store, name) for name in ("one", "two")] == [1, 2]
    happens(store)
    assert asked(store, "three") == 3


def test_a_copy_under_another_name_is_another_lineage(store: Store) -> None:
    assert [asked(store, name) for name in ("one", "two")] == [1, 2]
    assert asked(store, "two", prefix="tenants/acme/copy") == 1


def test_killed_between_its_two_records_it_is_the_same_try_when_it_runs_again(store: Store) -> None:
    assert asked(store, "one") == 1
    Path(store.path(f"{PREFIX}/tries/{weights('one')}/000001.json")).unlink()
    assert asked(store, "two") == 2
    assert [asked(store, name) for name in ("one", "two")] == [1, 2]
    assert [each.ordinal for each in tries(store, PREFIX, weights("one"))] == [1]


def test_a_release_between_the_question_and_the_record_costs_another_run_and_no_gap(store: Store) -> None:
    asked(store, "one")
    ordinal = try_of(store, PREFIX, weights("two"), "questions")
    put(store, judged(store, "one"))
    with pytest.raises(UserError, match="another evaluation of the variant, or a release, came meanwhile"):
        record_try(store, PREFIX, weights("two"), "questions", ordinal)
    assert asked(store, "two") == 1


def older(store: Store, name: str, *questions: str, at: str) -> None:
    """The records of a version that counted by weights alone."""
    for number, one in enumerate(questions, 1):
        record = {"schema_version": 1, "questions": one, "at": at}
        store.write(f"{PREFIX}/tries/{weights(name)}/{number:06d}.json", json.dumps(record).encode())


def test_records_of_an_older_store_keep_their_ordinal_and_count_if_they_are_since_the_last_release(
    store: Store,
) -> None:
    older(store, "old", "a", at="2020-01-01T00:00:00+00:00")
    put(store, judged(store, "old"))
    older(store, "one", "a", "b", at="2199-01-01T00:00:00+00:00")
    older(store, "two", "a", at="2199-01-02T00:00:00+00:00")
    assert [try_of(store, PREFIX, weights("one"), questions) for questions in "ab"] == [1, 2]
    assert try_of(store, PREFIX, weights("two"), "a") == 1
    assert count(store, PREFIX).next == 4
    assert asked(store, "new", "a") == 4
    assert asked(store, "newer", "a") == 5
    assert [asked(store, "one", "b"), asked(store, "two", "a"), asked(store, "old", "a")] == [2, 1, 1]
    for folder in folders_of_tries(store, PREFIX):
        read_folder(store, PREFIX, folder)
    for name in ("old", "one", "two", "new", "newer"):
        refuse_uncounted(store, PREFIX, weights(name))


def test_weights_that_lost_in_an_older_store_stay_behind_its_tries(store: Store) -> None:
    for day, name in enumerate(("lost", "won"), 1):
        older(store, name, "a", at=f"2020-01-0{day}T00:00:00+00:00")
    put(store, judged(store, "won"))
    assert [asked(store, name, "b") for name in ("won", "lost", "new")] == [1, 4, 3]
    for name in ("won", "lost"):
        refuse_uncounted(store, PREFIX, weights(name))


def test_killed_while_it_counts_the_records_of_an_older_store_it_forgets_none(store: Store) -> None:
    """Each is copied into the count before the new try: a kill leaves some of them, or all and no new one."""
    for day, name in enumerate(("one", "two", "three"), 1):
        older(store, name, "a", at=f"2199-01-0{day}T00:00:00+00:00")
    assert asked(store, "new", "a") == 4
    for kept in (1, 2, 3):
        for number in range(kept + 1, 5):
            Path(store.path(f"{PREFIX}/tries/lineage/000000/{number:06d}.json")).unlink()
        Path(store.path(f"{PREFIX}/tries/{weights('new')}/000001.json")).unlink()
        assert count(store, PREFIX).next == 4
        assert asked(store, "new", "a") == 4
    assert [asked(store, name, "a") for name in ("one", "two", "three", "newer")] == [1, 1, 1, 5]


@pytest.mark.parametrize(
    "gone",
    [
        f"{PREFIX}/tries/lineage/000000/000001.json",
        f"{PREFIX}/tries/lineage/000000",
        f"{PREFIX}/tries/lineage",
        f"{PREFIX}/tries",
    ],
)
def test_a_record_that_was_taken_out_ends_the_next_evaluation(store: Store, gone: str) -> None:
    for name in ("one", "two"):
        asked(store, name)
        made(store, name, 1 if name == "one" else 2)
    path = Path(store.path(gone))
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=r"is missing|that is not recorded"):
        asked(store, "three")


def made(store: Store, name: str, ordinal: int) -> None:
    """An evaluation of these weights, as this try."""

    def build(attempt: Attempt) -> dict[str, object]:
        (attempt.payload / "file").write_text(name, "utf-8")
        return {}

    recipe = Recipe("evaluation", PREFIX, {"fine_tuned_model": weights(name)}, {"tries": ordinal})
    with tempfile.TemporaryDirectory() as work:
        make_artifact(store, Path(work), recipe, build)
