"""What a host remembers of small files: as much as it may, and nothing of a memory that is damaged."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ft_dagster.store import recall
from ft_dagster.store.recall import FILE, remember
from ft_dagster.store.recall import recall as recalled

STORE = "s3://bucket/store"


def test_it_is_remembered_by_store_and_path(tmp_path: Path) -> None:
    remember(tmp_path, STORE, {"a": b"one", "b": b"two"})
    remember(tmp_path, STORE, {"b": b"three"})
    assert recalled(tmp_path, STORE, ["a", "b", "c"]) == {"a": b"one", "b": b"three"}
    assert recalled(tmp_path, "s3://bucket/other", ["a"]) == {}


def test_of_too_much_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "MOST_BYTES", 100_000)
    dice = random.Random(0)
    for number in range(60):
        remember(tmp_path, STORE, {str(number): dice.randbytes(10_000)})
    left = recalled(tmp_path, STORE, [str(number) for number in range(60)])
    assert list(left) == [str(number) for number in range(60 - len(left), 60)]
    assert 4 <= len(left) <= 10
    assert (tmp_path / FILE).stat().st_size < 200_000


@pytest.mark.parametrize("content", [b"", b"no database" * 100])
def test_a_damaged_memory_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    (tmp_path / FILE).chmod(0o600)
    assert recalled(tmp_path, STORE, ["a"]) == {}
    remember(tmp_path, STORE, {"a": b"one"})
    remember(tmp_path, STORE, {"a": b"one"})
    assert recalled(tmp_path, STORE, ["a"]) == {"a": b"one"}


def test_a_memory_that_others_may_write_is_not_believed(tmp_path: Path) -> None:
    remember(tmp_path, STORE, {"a": b"one"})
    os.chmod(tmp_path / FILE, 0o666)
    assert recalled(tmp_path, STORE, ["a"]) == {}
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
