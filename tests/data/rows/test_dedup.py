"""Duplicates are found, exactly and nearly, and the exact ones cheaply."""

from __future__ import annotations

import hashlib
import tracemalloc

import pytest

from ft_dagster.data.rows.content import normal_text, words_of
from ft_dagster.data.rows.dedup import NearDuplicates, SeenRows

TEXT = (
    "A building permit is an official decision from the municipality that grants permission to build, "
    "and it is required for new construction, for extensions and for certain changes of the facade"
)


def is_new(near: NearDuplicates, text: str) -> bool:
    return near.add(words_of(normal_text(text))) is None


def identity(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def test_a_row_seen_before_is_known_again_after_the_table_grew() -> None:
    seen = SeenRows(slots=4)
    assert all(seen.add(identity(n)) for n in range(5000))
    assert not any(seen.add(identity(n)) for n in range(5000))
    assert len(seen) == 5000


def test_rows_whose_hashes_begin_alike_are_different() -> None:
    seen = SeenRows()
    assert seen.add(bytes(15) + b"\x01")
    assert seen.add(bytes(15) + b"\x02")
    assert seen.add(bytes(7) + b"\x01" + bytes(7) + b"\x01")


@pytest.mark.long
@pytest.mark.slow
def test_a_million_rows_take_at_most_64_bytes_each_even_while_the_table_grows() -> None:
    seen = SeenRows()
    highest = 0.0
    for n in range(1_000_000):
        seen.add(identity(n))
        if n == 1000:
            seen.peak_nbytes = 0  # of the first rows, the smallest table is what is measured
        elif n > 1000:
            highest = max(highest, seen.peak_nbytes / len(seen), seen.nbytes / len(seen))
    assert highest <= 64
    assert seen.nbytes / len(seen) <= 32


@pytest.mark.slow
def test_the_table_takes_no_more_memory_than_it_says() -> None:
    tracemalloc.start()
    try:
        seen = SeenRows()
        for n in range(20_000):
            seen.add(identity(n))
        assert tracemalloc.get_traced_memory()[1] <= seen.peak_nbytes + 10_000
    finally:
        tracemalloc.stop()


def test_a_text_with_a_word_changed_is_a_near_duplicate() -> None:
    near = NearDuplicates(0.7)
    assert is_new(near, TEXT)
    assert not is_new(near, TEXT + " today")
    assert not is_new(near, TEXT.upper() + "!")


def test_a_different_text_is_no_near_duplicate() -> None:
    near = NearDuplicates(0.7)
    assert is_new(near, TEXT)
    assert is_new(near, "The fee is calculated by the municipal tariff and varies with the size of the house")


def test_texts_below_the_threshold_are_kept() -> None:
    words = TEXT.split()
    near = NearDuplicates(0.9)
    assert is_new(near, TEXT)
    assert is_new(near, " ".join([*words[:15], "however", *words[15:]]))


def test_a_short_text_is_near_itself_only() -> None:
    near = NearDuplicates(0.85)
    assert is_new(near, "yes it is")
    assert is_new(near, "no it is")
    assert not is_new(near, "Yes, it is.")
