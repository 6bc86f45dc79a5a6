"""Shares what the child programs do alike: reading RUN_DIR/run.json, leaving result.json, and how they
end.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypedDict, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, DONE, PREEMPTED
from ft_dagster.schema_version import refuse_newer
from ft_dagster.strict_json import dumps

SCHEMA_VERSION = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
UNFLUSHED = 120  # Python's exit code where its output could not be written
TRAINING = "training"  # the program that trains
T = TypeVar("T", bound=BaseModel)


class ProgramResult(TypedDict, total=False):
    """Describes result.json.

    `status`: "done", or what a training says instead; `figures`: of what was made; `error`: a
    user's mistake, in place of both, see `UserError.as_dict`.
    """

    schema_version: int
    status: str
    figures: dict[str, object]
    error: dict[str, object]


class Progress(TypedDict, total=False):
    """Describes progress.json of a program that runs.

    It tells: of a training its steps, and of general questions asked meanwhile the share that is right, its
    base's too; of an evaluation its questions (`done`, `total`, and those of which `task`; before there
    is a `total`, what it does). Who reads it adds `age`: seconds since it was written.
    """

    step: int
    total_steps: int
    loss: float
    tokens_per_second: float
    eta_seconds: float
    questions_right: float
    base_right: float
    done: int
    total: int
    task: str
    age: float


def duration(seconds: float) -> str:
    """Write seconds as time: 200 -> "3m 20s"; 7500 -> "2h 05m"; 4.2 -> "4.2s"."""
    if seconds < 59.95:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60:,}h {minutes % 60:02d}m"


def of_hours(hours: float) -> str:
    """Write hours as time, in the same way."""
    return duration(3600 * hours)


def read_json_as(file: Path, kind: type[T]) -> T:
    """Return the content of a JSON file as a model. Raises UserError: absent, broken, newer, or the wrong
    field.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("no such file", file=file, fix="Give the folder of a prepared run") from None
    except (ValueError, OSError) as error:
        raise UserError(f"cannot be read: {error}", file=file, fix="Write the run again") from None
    _refuse_newer_parts(content, file)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            str(first["msg"]),
            file=file,
            field=".".join(map(str, first["loc"])),
            value=first["input"],
            fix="Make the file with the version of ft_dagster that reads it",
        ) from None


def _refuse_newer_parts(content: Any, file: Path) -> None:
    """Refuse a newer schema of the file itself and of the plans inside it."""
    if not isinstance(content, dict):
        raise UserError("is not a JSON object", file=file, fix="Write the run again")
    plans = [member.get("plan", {}) for member in content.get("members", []) if isinstance(member, dict)]
    for part in [content, *[plan for plan in plans if isinstance(plan, dict)]]:
        refuse_newer(part.get("schema_version", SCHEMA_VERSION), SCHEMA_VERSION, file=file)


def write_json(file: Path, content: Any) -> None:
    """Write whole or not at all: readers never see half a file. Sorted keys: equal content, equal bytes.

    A number that is not finite becomes null, named beside it (see `strict_json`).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(file)


class ProgramRequest(BaseModel):
    """Says what RUN_DIR/run.json asks of a program. `output`: the folder that it fills."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    output: Path


R = TypeVar("R", bound=ProgramRequest)


def run_program(run_dir: Path, kind: type[R], work: Callable[[R], Mapping[str, object]]) -> int:
    """Do the `work` that RUN_DIR/run.json asks for, leave result.json with its figures in the output folder
    that this names, and return the exit code.

    0 done; 2 a user's mistake, said in one line on stderr and in result.json; 75 on SIGTERM, 130 on
    SIGINT. Anything else is a defect: it ends in a traceback and leaves no result file.
    """
    asked: list[int] = []
    handlers = {signal.SIGTERM: PREEMPTED, signal.SIGINT: CANCELLED}
    before = {number: signal.signal(number, _exit_with(code, asked)) for number, code in handlers.items()}
    try:
        return _run(run_dir, kind, work)
    except Exception:
        if asked:  # an extension makes another error of one that is raised while it calls back
            return asked[-1]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(run_dir: Path, kind: type[R], work: Callable[[R], Mapping[str, object]]) -> int:
    folder: Path | None = None
    try:
        request = read_json_as(run_dir / "run.json", kind)
        folder = request.output
        for part in ("payload", "evidence"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        figures = work(request)
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        if folder is not None:
            write_json(folder / "result.json", {"schema_version": SCHEMA_VERSION, "error": error.as_dict()})
        return BAD_INPUT
    write_json(
        folder / "result.json", {"schema_version": SCHEMA_VERSION, "status": "done", "figures": figures}
    )
    return DONE


def _exit_with(code: int, asked: list[int]) -> Callable[[int, FrameType | None], None]:
    def exit_now(number: int, frame: FrameType | None) -> None:
        asked.append(code)
        sys.exit(code)

    return exit_now


def keep_freed_memory() -> None:
    """Keep what is freed for use again, not given back to the system: a training frees and asks for the same
    gigabyte at every step, an evaluation at every batch, and a page that comes anew costs a fault. Only glibc
    has a say in it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Before 2.35 it takes 32 MiB at most. To set either ends its adapting of both, so never the second alone.
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, size) for size in (2**30, 2**25)):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def start_program(module: str, main: Callable[[Path], int]) -> NoReturn:
    """Run `python -m <module> RUN_DIR`."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {module} RUN_DIR")
    leave(main(Path(sys.argv[1])))


def leave(code: object) -> NoReturn:
    """End as the interpreter does on `sys.exit(code)`, but for taking apart what was imported, which takes
    seconds: longer still in a fork, which would first copy all of it.
    """
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as an interpreter that ends
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or UNFLUSHED
    os._exit(int(code or 0) & 0xFF)
