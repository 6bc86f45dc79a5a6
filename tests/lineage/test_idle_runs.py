"""Folders of programs that nobody goes on in, while others are at work."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from ft_dagster.lineage.idle_runs import idle_runs
from ft_dagster.lineage.retention import DAY, Rules
from ft_dagster.settings import Retention
from ft_dagster.store import Place, Store, begin_attempt
from ft_dagster.store.make import host_lock


def test_a_folder_that_goes_meanwhile_is_left_out(tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "acme.support"
    for name in ("probe-a", "probe-b", "probe-c"):
        (runs / name).mkdir(parents=True)
        (runs / name / "log.txt").write_text(name)

    def is_committed(key: str) -> bool:
        shutil.rmtree(runs / "probe-b", ignore_errors=True)
        return False

    rules = Rules(lambda tenant: Retention(days=1), time.time() + 2 * DAY)
    assert [run.folder.name for run in idle_runs(tmp_path, (), is_committed, rules)] == ["probe-a", "probe-c"]


def test_what_a_killed_process_left_of_an_attempt_goes_and_what_is_being_built_stays(tmp_path: Path) -> None:
    """Of a store elsewhere, whose attempts are built in the work folder."""
    store = Store("memory://attempts")
    lost, built = (Place("tenants/acme/support", stage, "a" * 64) for stage in ("one", "two"))
    left, living = (begin_attempt(store, place, tmp_path).folder for place in (lost, built))
    rules = Rules(lambda tenant: Retention(days=7), time.time() + 2 * DAY)
    with host_lock(tmp_path, built.path):
        assert [run.folder for run in idle_runs(tmp_path, (), lambda _: False, rules)] == [left]
    assert {run.folder for run in idle_runs(tmp_path, (), lambda _: False, rules)} == {left, living}


def test_who_builds_again_finds_no_half_of_the_last_try(tmp_path: Path) -> None:
    store = Store("memory://attempts")
    mine, other = (Place("tenants/acme/support", stage, "a" * 64) for stage in ("one", "two"))
    killed, beside = (begin_attempt(store, place, tmp_path).folder for place in (mine, other))
    again = begin_attempt(store, mine, tmp_path).folder
    assert {*(tmp_path / "attempts").iterdir()} == {again, beside}
    assert killed != again
