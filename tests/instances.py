"""Dagster instances in files. Their databases are made once, which takes 0.2 CPU seconds, and copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

ORIGIN = RemoteJobOrigin(  # of runs that are queued
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("ft_dagster"), "__repository__"), "nothing"
)


@contextmanager
def new_instance(overrides: dict[str, Any] | None = None) -> Iterator[dg.DagsterInstance]:
    """As `dg.instance_for_test()` gives one. `overrides`: what else its dagster.yaml says."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lay_databases(Path(folder))
        with dg.instance_for_test(overrides, temp_dir=folder) as instance:
            yield instance


def lay_databases(home: Path) -> None:
    """Into a home in which nothing has run: those that Dagster would make when it first opens it."""
    shutil.copytree(_databases().name, home, dirs_exist_ok=True)


@cache
def _databases() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="ft_dagster-databases-")
    with dg.DagsterInstance.local_temp(folder.name):
        return folder
