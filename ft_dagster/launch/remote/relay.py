"""Messages of a program on another machine into the Dagster Pipes session of a step on this one.

There the program writes each message as a line of its output; here those lines are appended to the file that
the session reads. How Pipes hands parameters on: base64 of zlib of JSON, in two variables.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

CONTEXT, MESSAGES = "DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES"
MESSAGE = '{"__dagster_pipes_version"'  # how the line of a message begins


class Relay(NamedTuple):
    """`reports`: for the program there, see `reporting`. `messages`: the file that a step reads here; both
    None: there is no session.
    """

    reports: dict[str, Any] | None = None
    messages: Path | None = None

    def pass_on(self, line: str) -> str:
        """Pass on the message in a line of output; what of the line is none. Another process may have written
        into the same line.
        """
        begin = -1 if self.messages is None else line.find(MESSAGE)
        if self.messages is None or begin < 0:
            return line
        try:
            message, end = json.JSONDecoder().raw_decode(line, begin)
        except ValueError:
            return line
        with self.messages.open("a", encoding="utf-8") as file:
            file.write(json.dumps(message) + "\n")
        return line[:begin] + line[end:]


def relay_of(environment: Mapping[str, str]) -> Relay:
    """Of the environment that a session of files gives."""
    if CONTEXT not in environment:
        return Relay()
    context, messages = _decoded(environment[CONTEXT]), _decoded(environment[MESSAGES])
    data = json.loads(Path(context["path"]).read_text("utf-8")) if "path" in context else context["data"]
    return Relay(data, Path(messages["path"]))


def reporting(reports: dict[str, Any] | None) -> dict[str, str]:
    """The environment of a program whose messages are lines of its output."""
    if reports is None:
        return {}
    return {CONTEXT: _encoded({"data": reports}), MESSAGES: _encoded({"stdio": "stdout"})}


def _decoded(value: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(value)))
    return decoded


def _encoded(value: dict[str, Any]) -> str:
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()
