"""Reads what the programs of a variant wrote on this host: how far the newest is, and its checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

from ft_dagster.program import Progress
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import FINE_TUNED_MODEL


class ProgramNow(NamedTuple):
    """Names the stage whose program wrote its progress last, and what it wrote; both empty where none did."""

    stage: str = ""
    progress: Progress = Progress()


def program_now(settings: Settings, key: VariantKey, since: float = 0.0) -> ProgramNow:
    """Return how far the program of a variant is; nothing where it wrote that before `since` (seconds since
    1970) or was just removed.
    """
    files = _files(settings, key, "*/output/progress.json")
    written, newest = files[-1] if files else (0.0, None)
    if newest is None or written < since:
        return ProgramNow()
    try:
        progress: Progress = json.loads(newest.read_text("utf-8"))
    except (OSError, ValueError):
        return ProgramNow()
    progress["age"] = max(0.0, time.time() - written)
    return ProgramNow(newest.parents[1].name.rpartition("-")[0], progress)


def newest_checkpoint(settings: Settings, key: VariantKey, since: float) -> int | None:
    """Return the step of the newest checkpoint on this host of the training that a variant came to since then
    (seconds since 1970), whichever run made it; None without one.
    """
    from ft_dagster.launch.launcher import OUTPUT, RUN_FILE
    from ft_dagster.training.checkpoints import complete
    from ft_dagster.training.contract import CHECKPOINTS

    asked = _files(settings, key, f"{FINE_TUNED_MODEL.name}*/{RUN_FILE}")  # written anew at each start
    if not asked or asked[-1][0] < since:
        return None
    found = complete(asked[-1][1].parent / OUTPUT / CHECKPOINTS)
    return found[-1].step if found else None


def _files(settings: Settings, key: VariantKey, pattern: str) -> list[tuple[float, Path]]:
    """Return the files in the folders of a variant's programs, with the time of each, the oldest first."""
    found = []
    for file in (settings.work_folder / "runs" / str(key)).glob(pattern):
        try:
            found.append((file.stat().st_mtime, file))
        except FileNotFoundError:  # just removed
            continue
    return sorted(found)
