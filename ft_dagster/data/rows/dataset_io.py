"""Reads and writes a task data set: a Parquet file a split, and evidence of where each row came from.

The payload says what the rows are, so that equal rows in equal order are equal bytes, whatever the files they
came from are called. Paths, lines, salts and leaves stand in the evidence beside it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_dagster.data.files.parquet import dicts_of
from ft_dagster.data.rows.rows import TOOLS, Message, Row
from ft_dagster.data.rows.splits import sets_of
from ft_dagster.data.sources.turns import as_json
from ft_dagster.spec.variant import VariantSpec
from ft_dagster.strict_json import JsonObject

ORIGINS, DROPPED, DATASET = "rows.parquet", "dropped.parquet", "dataset.json"
DUPLICATE = "duplicate"  # why a row was left out: one of the same content was there before
_AS_JSON = json.JSONEncoder(ensure_ascii=False)


def as_record(row: Row) -> dict[str, object]:
    """Return a row as the file has it; messages are a JSON list of {role, content}, with what else a turn
    says beside them.
    """
    turns = [{"role": turn.role, "content": turn.content, **turn.said} for turn in row.messages]
    return {
        "kind": row.kind,
        "messages": _AS_JSON.encode(turns) if row.kind == "messages" else None,
        "prompt": row.prompt if row.kind == "prompt_completion" else None,
        "completion": row.completion if row.kind == "prompt_completion" else None,
        "text": row.text if row.kind == "text" else None,
        "source": row.source,
        "licence": row.licence,
        "group": row.group,
        "weight": row.weight,
        TOOLS: row.tools or None,
    }


def as_origin(row: Row) -> dict[str, object]:
    """Return what is known of a row beside what it is; its leaf and salt in hex. The row was just read."""
    assert row.place is not None
    digests = {"identity": row.identity.hex(), "record": row.record.hex(), "salt": row.salt.hex()}
    return {**digests, **row.place._asdict()}


def read_split(file: Path, paths: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yield the rows of train.parquet, validation.parquet or test.parquet, in order; streamed.

    `paths`: what the sources are called in errors.
    """
    for record in dicts_of(file):
        yield as_row(record, paths)


def dealt_turns(file: Path, sets: int, *, joined: bool) -> list[tuple[str, int]]:
    """Return the first turn of each row of a split, in normal form, and its set; see `sets_of`."""
    rows = [(row.first_turn, row.group) for row in read_split(file)]
    return [(turn, part) for (turn, _), part in zip(rows, sets_of(rows, sets, joined=joined), strict=True)]


def smallest_set(file: Path, sets: int, *, joined: bool) -> int:
    """Count the rows of the smallest of the sets that a split is dealt into; see `sets_of`."""
    counts = Counter(part for _, part in dealt_turns(file, sets, joined=joined))
    return min(counts[number] for number in range(1, sets + 1))


def paths_of(spec: VariantSpec) -> dict[str, str]:
    """Return the declared path of each source, by its place in the declaration: the `source` of its rows."""
    paths = [source.path for source in spec.data.sources]
    several = {path for path in paths if paths.count(path) > 1}
    labels = map(label_of, range(len(paths)))
    return {at: f"{path} ({at})" if path in several else path for at, path in zip(labels, paths, strict=True)}


def label_of(number: int) -> str:
    return f"data.sources[{number}]"


def read_paths(evidence: Path) -> dict[str, str]:
    """Read the declared path of each source of a data set, by its place in the declaration.

    None of a data set of an older version: its rows have the path itself as their source.
    """
    file = evidence / DATASET
    return json.loads(file.read_text("utf-8"))["paths"] if file.is_file() else {}


def as_row(record: Mapping[str, Any], paths: Mapping[str, str] | None = None) -> Row:
    """Return the row of a record as `as_record` makes it; an older one has a salt and a leaf beside it."""
    messages = json.loads(record["messages"]) if record["messages"] else []
    return Row(
        kind=record["kind"],
        source=record["source"],
        messages=tuple(map(_as_message, messages)),
        prompt=record["prompt"] or "",
        completion=record["completion"] or "",
        text=record["text"] or "",
        licence=record["licence"],
        group=record["group"],
        weight=record["weight"],
        path=(paths or {}).get(record["source"], ""),
        tools=record.get(TOOLS) or "",
    )


def _as_message(turn: JsonObject) -> Message:
    more = {name: value for name, value in turn.items() if name not in ("role", "content")}
    return Message(turn["role"], turn["content"], as_json(more) if more else "")
