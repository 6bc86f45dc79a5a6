"""Finds the commands of a page for people."""

from __future__ import annotations

import re
import shlex

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    """The lines of a page that call the program, as words."""
    found = re.findall(r"^(?:\$ )?(ft-dagster .*)$", "\n".join(FENCE.findall(page)), re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in found]
