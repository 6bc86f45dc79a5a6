"""Read by each Python that a test starts with this folder on PYTHONPATH: it stops where the test says.

FT_STOP_AT: `module:function`, or `module:Class.method`; FT_STOP_WHEN: before or after it; FT_STOP_ARGUMENT:
one that the call must have, if any. FT_STOP_HOW: `kill` ends the whole process group by SIGKILL, `meet` waits
for another group to come there. Nothing happens before the file `armed` is in FT_STOP_FOLDER, and each group
stops once.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE, _, NAME = os.environ.get("FT_STOP_AT", ":").partition(":")
WHEN, ARGUMENT = os.environ.get("FT_STOP_WHEN", "before"), os.environ.get("FT_STOP_ARGUMENT")
HOW, FOLDER = os.environ.get("FT_STOP_HOW", "kill"), Path(os.environ.get("FT_STOP_FOLDER", "/nowhere"))
PATIENCE = 120.0  # seconds that one waits for another


def stop() -> None:
    """Once a process group, once the test has armed it."""
    mark = FOLDER / f"stopped-{os.getpgid(0)}"
    if not (FOLDER / "armed").exists() or mark.exists():
        return
    mark.touch()
    if HOW == "kill":
        os.killpg(0, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while len([*FOLDER.glob("stopped-*")]) < 2 and time.monotonic() < end:
        time.sleep(0.01)


def stopping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def stops(*given: Any, **named: Any) -> Any:
        meant = ARGUMENT is None or ARGUMENT in map(str, (*given, *named.values()))
        if meant and WHEN == "before":
            stop()
        answer = function(*given, **named)
        if meant and WHEN == "after":
            stop()
        return answer

    return stops


class Loader(importlib.abc.Loader):
    """Loads the module as it would be loaded, then puts the stop in."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self.inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        *owners, last = NAME.split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        setattr(owner, last, stopping(getattr(owner, last)))


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = Loader(spec.loader)
        return spec


if MODULE:
    sys.meta_path.insert(0, Finder())
