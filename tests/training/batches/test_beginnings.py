"""Beginnings in common: which are found, how rows are packed with them, what a batch then holds."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest

from ft_dagster.training.batches.attention import AFTER, LENGTHS, TIMES
from ft_dagster.training.batches.batches import Collator, batch_digest
from ft_dagster.training.batches.beginnings import LEAST, computed
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin, epoch_bins
from tests.training.batches.made_examples import examples_of

CAPACITY = 128


def drawn(count: int = 200, seed: int = 0) -> Examples:
    """Examples of five beginnings within two longer ones, and some that have nothing in common."""
    random = np.random.RandomState(seed)
    system = [random.randint(5, 400, 20).tolist() for _ in range(2)]
    documents = [system[i % 2] + random.randint(5, 400, 30).tolist() for i in range(5)]
    starts = [*documents, *system, []]
    return examples_of(
        [
            starts[random.randint(len(starts))] + random.randint(5, 400, random.randint(5, 60)).tolist()
            for _ in range(count)
        ]
    )


def bins_of(examples: Examples, seed: int = 1, epoch: int = 0) -> list[Bin]:
    return epoch_bins(examples.lengths, examples.shards, CAPACITY, seed, epoch, examples.beginnings)


def beginning(examples: Examples, ordinal: int) -> int:
    assert examples.beginnings is not None
    return int(examples.beginnings.by_example[ordinal])


def test_the_examples_of_a_beginning_have_its_tokens_in_common_and_one_more() -> None:
    shared = drawn().sharing(CAPACITY)
    assert shared.beginnings is not None
    assert len(shared.beginnings.lengths) > 2
    for kind, length in enumerate(shared.beginnings.lengths.tolist()):
        members = np.flatnonzero(shared.beginnings.kinds == kind)
        assert length >= LEAST
        assert len(members) > 1
        assert len({tuple(shared.read(int(i))[0][: length + 1]) for i in members}) == 1


def test_of_beginnings_within_each_other_an_example_has_the_one_that_saves_more() -> None:
    system, document = list(range(10, 40)), list(range(100, 160))
    own = iter(range(1000, 2000))
    few = [system + [next(own)] * 3 for _ in range(20)]
    among = examples_of([*few, *([*system, *document, next(own), next(own)] for _ in range(8))])
    shared = among.sharing(256)
    assert beginning(shared, 0) == len(system) - 1
    assert beginning(shared, 25) == len([*system, *document]) - 1
    lone = examples_of([*few, *([*system, *document, next(own), next(own)] for _ in range(2))]).sharing(4096)
    assert beginning(lone, 21) == len([*system, *document]) - 1  # 89 tokens for one, and 29 are lost with it


@pytest.mark.parametrize("common", [LEAST, LEAST + 1])
def test_less_than_the_least_is_not_shared(common: int) -> None:
    same = list(range(5, 5 + common))
    shared = examples_of([[*same, 900, 901], [*same, 902, 903]]).sharing(CAPACITY)
    assert beginning(shared, 0) == (common - 1 if common > LEAST else 0)


def test_the_same_example_twice_and_one_that_begins_another_share_all_but_a_token() -> None:
    whole = list(range(5, 45))
    shared = examples_of([whole, whole, whole[:30]]).sharing(CAPACITY)
    assert [beginning(shared, i) for i in range(3)] in ([39, 39, 0], [29, 29, 29])
    (parts,) = [shared.parts(ordinals) for ordinals in bins_of(shared)]
    assert all(part.end > part.start for part in parts)


@pytest.mark.parametrize("seed", [0, 3])
def test_each_example_is_in_one_row_whole_and_no_row_computes_more_than_it_holds(seed: int) -> None:
    shared = drawn(seed=seed).sharing(CAPACITY)
    bins = bins_of(shared)
    assert Counter(chain(*bins)) == Counter(range(len(shared)))
    assert max(computed(shared.parts(ordinals)) for ordinals in bins) <= CAPACITY
    for ordinals in bins:
        parts = shared.parts(ordinals)
        begun = {n: part for n, part in enumerate(parts) if part.after < 0}
        held = [
            (part.ordinal, (begun[part.after].end if part.after >= 0 else 0) + part.end - part.start)
            for n, part in enumerate(parts)
            if part.after >= 0 or n not in {other.after for other in parts}
        ]
        assert held == [(i, shared.lengths[i]) for i in ordinals]


def test_rows_are_fewer_and_nearly_full() -> None:
    alone, shared = drawn(), drawn().sharing(CAPACITY)
    bins = bins_of(shared)
    tokens = sum(computed(shared.parts(ordinals)) for ordinals in bins)
    assert tokens < 0.75 * alone.lengths.sum()
    assert len(bins) < 0.8 * len(bins_of(alone))
    assert tokens > 0.9 * CAPACITY * len(bins)


def test_rows_depend_on_tokens_seed_and_epoch_alone() -> None:
    shared = drawn().sharing(CAPACITY)
    assert bins_of(shared) == bins_of(drawn().sharing(CAPACITY))
    assert bins_of(shared) != bins_of(shared, epoch=1)
    assert bins_of(shared) != bins_of(shared, seed=2)


def test_where_nothing_is_in_common_rows_are_what_they_were() -> None:
    random = np.random.RandomState(0)
    alone = examples_of([random.randint(5, 400, random.randint(5, 60)).tolist() for _ in range(100)])
    shared = alone.sharing(CAPACITY)
    assert bins_of(shared) == bins_of(alone)
    one, other = (Collator(each, 0, CAPACITY)([{"bin": bins_of(alone)[0]}]) for each in (alone, shared))
    assert one.keys() == other.keys()
    assert batch_digest([one["content"]]) == batch_digest([other["content"]])


def test_a_batch_has_a_beginning_once_and_counts_its_labels_as_often_as_examples_have_them() -> None:
    same = list(range(5, 25))
    rows = [[*same, 100, 101], [*same, 102], [*same, 103, 104, 105], [200, 201]]
    spans = [[10, 12, 19, 22], [10, 11, 20, 21], [19, 23], [1, 2]]
    shared = examples_of(rows, spans).sharing(64)
    batch = Collator(shared, 0, 64)([{"bin": [0, 1, 2, 3]}])
    assert batch[LENGTHS] == [[19, 3, 2, 4, 2]]
    assert batch[AFTER] == [[-1, 0, 0, 0, -1]]
    assert batch["input_ids"][0].tolist() == [*same[:19], 24, 100, 101, 24, 102, 24, 103, 104, 105, 200, 201]
    assert batch["position_ids"][0].tolist() == [*range(19), 19, 20, 21, 19, 20, 19, 20, 21, 22, 0, 1]
    found = dict(
        zip(np.flatnonzero(batch["labels"][0] != -100), zip(*_labelled(batch), strict=True), strict=True)
    )
    assert found == {
        10: (15, 2), 11: (16, 1), 19: (24, 2),  # of the beginning, and of the token after it
        20: (100, 1), 21: (101, 1), 23: (102, 1), 25: (103, 1), 26: (104, 1), 27: (105, 1), 29: (201, 1),
    }  # fmt: skip
    assert sum(count for _, count in found.values()) == shared.trained_tokens
    assert len(found) == shared.labels_in(shared.parts([0, 1, 2, 3]))


def _labelled(batch: dict[str, object]) -> tuple[list[int], list[int]]:
    labels, times = batch["labels"][0], batch[TIMES][0]  # type: ignore[index]
    return labels[labels != -100].tolist(), times[labels != -100].tolist()
