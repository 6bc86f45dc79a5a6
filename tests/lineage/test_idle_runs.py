"""Folders of programs that nobody goes on in, while others are at work."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from ft_dagster.lineage.idle_runs import idle_runs
from ft_dagster.lineage.retention import DAY, Rules
from ft_dagster.settings import Retention


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
