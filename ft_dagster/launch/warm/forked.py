"""What a program may ask that could have been forked from the server."""

from __future__ import annotations

import os
import sys

from ft_dagster.launch.warm import fresh

command: list[str] | None = None  # by which a plain start would have begun this program; None: it is one


def start_over() -> None:
    """Begin again in this very process as a plain start: for a program that its libraries do not suit as they
    were imported. Does nothing, and returns, where it was started plainly.
    """
    if command is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(command[0], command)


def begin() -> None:
    """Make a fork of such a program, one of several that work together, what a Python just started would be:
    its own signals, randomness, and the threads that the environment says.
    """
    fresh.default_signals()
    fresh.nothing_shared()
    fresh.set_threads(os.environ)
