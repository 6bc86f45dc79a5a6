"""The garbage collector skips the objects that exist already, and is then as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from threading import Event

import pytest

from ft_dagster.data.files import gc_freeze
from ft_dagster.data.files.gc_freeze import heap_frozen


@pytest.fixture(autouse=True)
def nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The suite freezes what its collection made (tests/conftest.py)."""
    monkeypatch.setattr(gc_freeze, "_frozen", Event())
    gc.unfreeze()
    yield
    gc.freeze()


def test_existing_objects_are_frozen_and_released() -> None:
    assert gc.get_freeze_count() == 0
    with heap_frozen():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_they_are_released_after_an_error() -> None:
    with pytest.raises(ValueError, match="told"), heap_frozen():
        raise ValueError("told")
    assert gc.get_freeze_count() == 0


@pytest.mark.slow
def test_what_was_frozen_before_stays_frozen() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    made: list[list[int]] = [[] for _ in range(10_000)]  # would be frozen too
    with heap_frozen():
        assert 1000 < gc.get_freeze_count() <= before  # some of them may be gone
    assert 1000 < gc.get_freeze_count() <= before
    with heap_frozen():
        assert gc.get_freeze_count() <= before
    assert 1000 < gc.get_freeze_count() <= before
    assert len(made) == 10_000


@pytest.mark.slow
def test_a_block_within_another_ends_without_releasing() -> None:
    with heap_frozen():
        with heap_frozen():
            pass
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0
    with heap_frozen():
        assert gc.get_freeze_count() > 1000
