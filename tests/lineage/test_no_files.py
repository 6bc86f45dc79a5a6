"""What is no file in a release log, a folder or a FIFO, is named in one line; nothing waits for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.log import entry_path, folder_of, read_log
from ft_dagster.lineage.log_files import HEAD
from ft_dagster.store import Store
from ft_dagster.store.remote_errors import closed
from tests.lineage.releases import PREFIX, judged, put
from tests.present import present


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{folder_of(PREFIX)}/{HEAD}", "not the head of a release log"),
        (entry_path(PREFIX, 1), "no file, where an entry of a log has to be"),
    ],
)
def test_what_is_no_file_in_a_log_is_one_error(
    store: Store, make: Callable[[Path], None], path: str, said: str
) -> None:
    put(store, judged(store, "one"))
    file = present(store.local(path))
    file.unlink()
    make(file)
    with pytest.raises(UserError, match=said) as refused:
        read_log(store, PREFIX)
    assert str(refused.value).startswith(str(file))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_else_is_no_file_is_said_in_one_line(store: Store, make: Callable[[Path], None]) -> None:
    file = present(store.local("tenants/file.json"))
    file.parent.mkdir(parents=True)
    make(file)
    with pytest.raises(IsADirectoryError) as refused:
        store.read("tenants/file.json")
    said = str(present(closed(refused.value)))
    assert said.startswith(f"{file}: a folder, or what else is no file, stands where a file has to be")
