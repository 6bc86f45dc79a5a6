"""What both programs of this room share: how they end, and the result file they leave."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import SCHEMA_VERSION

DONE, BAD_INPUT, PREEMPTED, CANCELLED = 0, 2, 75, 130


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write and rename, so that no reader sees half a file."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(partial, file)


def run_program(output: Callable[[], Path], work: Callable[[], dict[str, Any]]) -> int:
    """Do `work`, leave result.json with its figures in `output()`, and return the exit code.

    0 done; 2 a user's mistake, said in one line on stderr and in result.json; 75 on SIGTERM, 130 on
    SIGINT. Anything else is a defect: it ends in a traceback and leaves no result file.
    """
    handlers = {signal.SIGTERM: PREEMPTED, signal.SIGINT: CANCELLED}
    before = {number: signal.signal(number, _exit_with(code)) for number, code in handlers.items()}
    try:
        return _run(output, work)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(output: Callable[[], Path], work: Callable[[], dict[str, Any]]) -> int:
    folder: Path | None = None
    try:
        folder = output()
        for part in ("payload", "evidence"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        figures = work()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        if folder is not None:
            write_json(folder / "result.json", {"schema_version": SCHEMA_VERSION, "error": error.as_dict()})
        return BAD_INPUT
    write_json(
        folder / "result.json", {"schema_version": SCHEMA_VERSION, "status": "done", "figures": figures}
    )
    return DONE


def _exit_with(code: int) -> Callable[[int, FrameType | None], None]:
    def exit_now(number: int, frame: FrameType | None) -> None:
        sys.exit(code)

    return exit_now
