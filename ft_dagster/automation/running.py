"""Reads what the programs of a variant wrote on this host: how far the newest is, and its checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple

from ft_dagster.program import Progress
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey


class ProgramNow(NamedTuple):
    """Names the stage whose program wrote its progress last, and what it wrote; both empty where none did."""

    stage: str = ""
    progress: Progress = Progress()


def program_now(settings: Settings, key: VariantKey, since: float = 0.0) -> ProgramNow:
    """Return how far the program of a variant is; nothing where it wrote that before `since` (seconds since
    1970) or was just removed.
    """
    files = _outputs(settings, key, "progress.json")
    written, newest = files[-1] if files else (0.0, None)
    if newest is None or written < since:
        return ProgramNow()
    try:
        progress: Progress = json.loads(newest.read_text("utf-8"))
    except (OSError, ValueError):
        return ProgramNow()
    progress["age"] = max(0.0, time.time() - written)
    return ProgramNow(newest.parents[1].name.rpartition("-")[0], progress)


def newest_checkpoint(settings: Settings, key: VariantKey) -> int | None:
    """Return the step of the newest checkpoint of a variant on this host; None without one."""
    from ft_dagster.training.checkpoints import complete
    from ft_dagster.training.contract import CHECKPOINTS

    roots = _outputs(settings, key, CHECKPOINTS)
    found = complete(roots[-1][1]) if roots else []
    return found[-1].step if found else None


def _outputs(settings: Settings, key: VariantKey, name: str) -> list[tuple[float, Path]]:
    """Return what a variant's programs wrote by this name, with the time of it, the oldest first."""
    found = []
    for file in (settings.work_folder / "runs" / str(key)).glob(f"*/output/{name}"):
        try:
            found.append((file.stat().st_mtime, file))
        except FileNotFoundError:  # just removed
            continue
    return sorted(found)
