"""Declares the columns of the tables that a data set and a corpus are written as."""

from __future__ import annotations

import pyarrow as pa

from ft_dagster.data.rows.rows import TOOLS

TEXTS = ("kind", "messages", "prompt", "completion", "text", "source", "licence", "group")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("weight", pa.float64())])
WITH_TOOLS = SCHEMA.append(pa.field(TOOLS, pa.string()))
ORIGIN = (
    *(("identity", pa.string()), ("record", pa.string()), ("salt", pa.string())),
    *(("path", pa.string()), ("file", pa.string()), ("line", pa.int64()), ("ordinal", pa.int64())),
)
ORIGIN_NAMES = tuple(name for name, _ in ORIGIN)
SAID = ("source", "licence", "group")  # of the row itself, repeated beside where it came from
_SAID = tuple((name, pa.string()) for name in SAID)
ORIGINS_SCHEMA = pa.schema([("split", pa.string()), ("row", pa.int64()), *ORIGIN, *_SAID])
DROPPED_SCHEMA = pa.schema([("reason", pa.string()), ("task", pa.string()), *ORIGIN, *_SAID])
