"""Writes text that somebody gave into Markdown: it says what it says, as one line, and does nothing."""

from __future__ import annotations

import re

from ft_dagster.errors import in_one_line

# A sign within a word is one (training_mixture), and so is a dot or a colon, but for what makes an address.
_SIGNS = re.compile(r"[\\`*\[\]|~!]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.")
_BEGINNING = re.compile(r"^(?=[#=]|[-+](?:\s|$|-))|^\d+(?=[.)](?:\s|$))")


def plain(text: str) -> str:
    """Return text for Markdown, GitHub's too, and for HTML: no markup, no link, no line of its own."""
    line = in_one_line(" ".join(text.split()))
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(sign, entity)
    line = _SIGNS.sub(lambda found: f"\\{found[0]}", line)
    return _BEGINNING.sub(lambda found: f"{found[0]}\\", line)
