"""The environment of this process, for a while."""

from __future__ import annotations

import os

import pytest

from ft_dagster.launch.environment import environment_with


def test_it_is_afterwards_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "before")
    monkeypatch.delenv("B", raising=False)
    with environment_with({"A": "meanwhile", "B": "new"}):
        assert (os.environ["A"], os.environ["B"]) == ("meanwhile", "new")
    assert (os.environ["A"], os.environ.get("B")) == ("before", None)
