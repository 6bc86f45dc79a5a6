"""The garbage collector is held off what is there already, and is then as it was."""

from __future__ import annotations

import gc

import pytest

from ft_dagster.data.collector import only_new_objects


def test_what_is_there_is_set_apart_and_given_back() -> None:
    assert gc.get_freeze_count() == 0
    with only_new_objects():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_it_is_given_back_after_an_error() -> None:
    with pytest.raises(ValueError, match="told"), only_new_objects():
        raise ValueError("told")
    assert gc.get_freeze_count() == 0


def test_what_somebody_else_set_apart_stays_so() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        with only_new_objects():
            assert gc.get_freeze_count() == before
        assert gc.get_freeze_count() == before
    finally:
        gc.unfreeze()
