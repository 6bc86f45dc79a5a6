"""Says in plain words why a text is not JSON, and what mends it; it never quotes the text."""

from __future__ import annotations

import re

ROWS = "Write each row whole on one line, or all rows as one list in a .json file"
WHOLE = "Write the file again: its end is missing"
_PYTHON = re.compile(r"None|True|False|undefined")


def fault_of_json(error: Exception, text: str) -> tuple[str, str]:
    """Return the problem and its way out; `error`: what the parser raised about `text`."""
    at, what = getattr(error, "pos", None), getattr(error, "msg", "not JSON")
    if at is None:
        return what, "Mend it: one JSON object a row"
    before, behind = text[:at].rstrip(), text[at:].strip()
    if what == "Extra data":
        return _more_than_one(behind)
    if what.startswith("Unterminated string") and text.rstrip().endswith(("}", "]")):
        return "a quote is never closed", r'Close it; write " in a text as \"'
    if not behind or what.startswith("Unterminated string"):
        cut_off = len(text.strip()) > 1 and text.lstrip().startswith("[")
        return ("it ends before its list does", WHOLE) if cut_off else ("it ends inside a row", ROWS)
    trailing = what.startswith("Illegal trailing comma")  # as Python 3.13 says it
    if trailing or (before.endswith(",") and behind[0] in "}],"):
        return "a comma has nothing behind it", "Remove the comma"
    if behind[0] == "'":
        return "names or texts stand in single quotes", 'Write them in double quotes: {"text": "..."}'
    if behind.startswith("//") or behind[0] == "#":
        return "JSON has no comments", "Remove the comment"
    if _PYTHON.match(behind):
        return "a word that JSON does not have", "Write null, true or false: json.dumps writes a row"
    if what.startswith("Invalid control character"):
        return "a tab, a line break or another control character in a text", r"Write \t, \n or \u0000 there"
    if "escape" in what:
        return "a backslash before a letter that takes none", r"Write \\ for a backslash"
    if what.startswith("Expecting ',' delimiter"):
        return "a comma or a closing bracket is missing, or a quote inside a text", r'Write " in a text as \"'
    if what.startswith("Expecting property name"):
        return "a name without double quotes", 'Write names in double quotes: {"text": "..."}'
    return "not JSON", "Write one JSON object a row, with names and texts in double quotes"


def _more_than_one(behind: str) -> tuple[str, str]:
    if behind == ",":
        return "a comma stands behind the row", "Remove the comma at its end"
    if behind.lstrip(", ").startswith("{"):
        return "two rows stand on one line", "Put each row on a line of its own"
    return "more than one JSON object stands there", "Put one object on each line, and nothing else"
