"""Reads the prompts of which a model must refuse some, and must not refuse others: the package's own, or a
file of the platform's.

`refusal_prompts.jsonl`, beside this file, was written for this project and is under its licence: 12
categories with 10 prompts of each kind, short and without instructions, the harmless ones in words like those
of the others. A line is {"id": ..., "kind": ..., "category": ..., "prompt": ...}; its kind is must_refuse or
must_answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ft_dagster.data.rows.content import normal_text
from ft_dagster.errors import UserError
from ft_dagster.gate.refusals.refusals import KINDS
from ft_dagster.roots import Roots, jsonl_file
from ft_dagster.spec.variant import RefusalsSpec

BUILT_IN = Path(__file__).with_name("refusal_prompts.jsonl")
LEAST = 100  # prompts of each kind
MOST = 2_000
MOST_BYTES = 10_000_000
LONGEST = 4_000  # characters of a prompt
NAME = re.compile(r"\w[\w .-]{0,99}")  # it is shown
FIELD = "gates.refusals.prompts"
FIELDS = ("id", "kind", "category", "prompt")
NEW_TOKENS = 24  # of an answer: a refusal stands at its start


class RefusalPrompt(NamedTuple):
    """Holds a prompt. `id`: its name in reports, where the prompt itself is not shown."""

    id: str
    kind: str
    category: str
    prompt: str


def prompts_file(
    declared: RefusalsSpec, project: Path, declared_in: object = None, roots: Roots | None = None
) -> Path:
    """Return the file with the prompts of a declaration, its content checked. Raises UserError: absent,
    outside of `roots`, or not as it has to be.
    """
    if declared.prompts is None:
        return BUILT_IN
    file = jsonl_file(declared.prompts, project, FIELDS, declared_in=declared_in, field=FIELD, roots=roots)
    read_prompts(file)
    return file


def read_prompts(file: Path) -> tuple[RefusalPrompt, ...]:
    """Read a file of prompts, in its order. Raises UserError with the line that is not as it has to be, for a
    prompt that is there twice (case and spacing aside), and for fewer than LEAST of a kind.
    """
    if file.stat().st_size > MOST_BYTES:
        raise _refused(file, f"larger than {MOST_BYTES // 1_000_000} MB", f"Give at most {MOST:,} prompts")
    found, ids, texts = list[RefusalPrompt](), dict[str, int](), dict[str, int]()
    for number, line in _lines(file):
        prompt = _prompt(file, number, line)
        if prompt.id in ids:
            raise _refused(file, f"line {number} has the id of line {ids[prompt.id]}", "Give each its own")
        text = normal_text(prompt.prompt)
        if text in texts:  # by which one answer would count as two
            raise _refused(file, f"line {number} has the prompt of line {texts[text]}", "Give it once")
        ids[prompt.id] = texts[text] = number
        found.append(prompt)
    counts = Counter(prompt.kind for prompt in found)
    for kind in KINDS:
        if not LEAST <= counts[kind] <= MOST:
            wanted = f"Give {LEAST} to {MOST:,} of each kind"
            raise _refused(file, f"{counts[kind]:,} prompts of kind {kind}", wanted)
    return tuple(found)


def write_prompts(prompts: Iterable[RefusalPrompt], file: Path) -> None:
    """Write prompts as `read_prompts` reads them."""
    file.write_text("".join(f"{json.dumps(prompt._asdict())}\n" for prompt in prompts), "utf-8")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise _refused(file, "not UTF-8 text", "Save it as UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _prompt(file: Path, number: int, line: str) -> RefusalPrompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise _refused(file, f"line {number} is no JSON", "Write one JSON object a line") from None
    if not isinstance(row, dict) or set(row) != set(FIELDS):
        raise _refused(file, f"line {number} has other fields", f"A line has {', '.join(FIELDS)}")
    for name in FIELDS:
        text = row[name]
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST or _is_no_text(text):
            fix = f"Give a text of 1 to {LONGEST:,} characters"
            raise _refused(file, f"{name} of line {number} is no such text", fix)
    for name in ("id", "category"):
        if not NAME.fullmatch(row[name]):
            fix = "Give a name of at most 100 letters, digits, spaces, dots and dashes"
            raise _refused(file, f"{name} of line {number} is no name", fix)
    if row["kind"] not in KINDS:
        raise _refused(file, f"kind of line {number} is none", f"It is {' or '.join(KINDS)}")
    return RefusalPrompt(**row)


def _is_no_text(text: str) -> bool:
    """Say whether it holds half a character, as JSON lets it."""
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def _refused(file: Path, problem: str, fix: str) -> UserError:
    return UserError(f"the prompts cannot be asked: {problem}", file=file, field=FIELD, fix=fix)
