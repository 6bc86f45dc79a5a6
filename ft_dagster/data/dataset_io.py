"""The file format of a task data set's splits: one row an example, in Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from ft_dagster.data.rows import Message, Row

TEXTS = ("kind", "messages", "prompt", "completion", "text", "source", "licence", "group")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in TEXTS),
        ("weight", pa.float64()),
        ("record", pa.string()),
        ("salt", pa.string()),
    ]
)


def as_record(row: Row) -> dict[str, Any]:
    """A row as the file has it; messages are a JSON list of {role, content}."""
    content = row.content
    messages = json.dumps(content["messages"], ensure_ascii=False) if row.kind == "messages" else None
    return {
        "kind": row.kind,
        "messages": messages,
        "prompt": content.get("prompt"),
        "completion": content.get("completion"),
        "text": content.get("text"),
        "source": row.source,
        "licence": row.licence,
        "group": row.group,
        "weight": row.weight,
        "record": row.record,
        "salt": row.salt,
    }


def read_split(file: Path) -> Iterator[Row]:
    """The rows of train.parquet, validation.parquet or test.parquet, in order; streamed."""
    with ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=512):
            for record in batch.to_pylist():
                yield as_row(record)


def read_texts(file: Path) -> Iterator[str]:
    """The column `text` of a Parquet file; streamed."""
    with ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=512, columns=["text"]):
            yield from batch.column(0).to_pylist()


def as_row(record: dict[str, Any]) -> Row:
    """The row of a record as `as_record` makes it."""
    messages = json.loads(record["messages"]) if record["messages"] else []
    return Row(
        kind=record["kind"],
        source=record["source"],
        messages=tuple(Message(message["role"], message["content"]) for message in messages),
        prompt=record["prompt"] or "",
        completion=record["completion"] or "",
        text=record["text"] or "",
        licence=record["licence"],
        group=record["group"],
        weight=record["weight"],
        salt=record["salt"],
    )
