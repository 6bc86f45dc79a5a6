"""Writes an experiment's log: our lines go to the terminal, all else that is printed to a file."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ft_dagster.automation.running import program_now
from ft_dagster.report.sentences.progress import bar
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey

POLL_SECONDS = 1.0
STDOUT, STDERR = 1, 2


@contextmanager
def output_to_log(log: Path, *, on_stderr: bool) -> Iterator[Console]:
    """Let what this process and its children print go to `log`; gives a console on the terminal itself."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = {number: os.dup(number) for number in (STDOUT, STDERR)}
    _flush()
    with log.open("ab") as file:
        for number in kept:
            os.dup2(file.fileno(), number)
    try:
        with os.fdopen(os.dup(kept[STDERR if on_stderr else STDOUT]), "w", encoding="utf-8") as stream:
            yield Console(file=stream, width=None if stream.isatty() else 120)
    finally:
        _flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


@contextmanager
def progress_shown(screen: Console, settings: Settings, key: VariantKey) -> Iterator[Callable[[str], None]]:
    """Show which program of the variant runs and how far it is, beside the lines that are said."""
    began, over = time.time(), threading.Event()
    live = Live(console=screen, transient=True, redirect_stdout=False, redirect_stderr=False)

    def say(line: str) -> None:
        screen.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False, highlight=False, soft_wrap=True)

    def look() -> None:
        stage = ""
        while not over.wait(POLL_SECONDS):
            now, how_far = _running(settings, key, began)
            if screen.is_terminal:
                live.update(Text(f"{now}  {how_far}"))
            elif now != stage and now:
                say(f"  {now}")
            stage = now

    thread = threading.Thread(target=look, daemon=True)
    with live if screen.is_terminal else nullcontext():
        thread.start()
        try:
            yield say
        finally:
            over.set()
            thread.join()


def _running(settings: Settings, key: VariantKey, since: float) -> tuple[str, str]:
    """Return (stage, progress) of the program of a variant that wrote its progress last; empty where none
    does.
    """
    found = program_now(settings, key, since)
    return found.stage, bar(found.progress)
