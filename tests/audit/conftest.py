"""A small history that questions are asked of, and the one of an earlier version."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ft_dagster.settings import Settings, load_settings
from ft_dagster.store import write_head
from tests.audit.histories import History, question
from tests.kept_project import OLD_PROJECT


@pytest.fixture(scope="session")
def kept_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """acme.one on 30 rows and a corpus, released; acme.child on top of it; globex.two on 20 of these rows.
    Heads of the corpus, and of what an experiment of acme.one trained.
    """
    made = History(tmp_path_factory.mktemp("history") / "project")
    base, corpus = made.base(), made.corpus([f"Document {n} of the town." for n in range(40)])
    dataset = made.dataset("acme.one", [question(number) for number in range(30)])
    model = made.model("acme.one", made.mixture("acme.one", dataset, corpus), base, times=3)
    export, _ = made.release("acme.one", model, base)
    derived = made.derived_base("acme.child", "acme.one", export, model, base)
    rows = made.dataset("acme.child", [question(number) for number in range(100, 120)])
    child = made.model("acme.child", made.mixture("acme.child", rows), derived)
    made.release("acme.child", child, derived)
    other = made.dataset("globex.two", [question(number) for number in range(20)])
    made.model("globex.two", made.mixture("globex.two", other), base)
    write_head(made.store, f"{model.place.prefix}/experiments/tried/lora", model, None)
    return made.folder


@pytest.fixture
def history(tmp_path: Path, kept_history: Path) -> History:
    """A copy of that history, for the test alone."""
    return History(shutil.copytree(kept_history, tmp_path / "project"))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of the project and store of version 0.1."""
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    return load_settings(shutil.copytree(OLD_PROJECT, tmp_path / "old"))
