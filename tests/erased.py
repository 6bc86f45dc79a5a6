"""Looks for texts and identities in whatever lies below folders, as who got the disk would.

Every file is read as bytes, and as what it decodes to: gzip, zlib, zstd and zip, Parquet and Arrow (of all
columns the values, dictionaries among them), SQLite by its raw pages, free ones and journals too. A text is
looked for by pieces of its words, as UTF-8, UTF-16 and as JSON escapes it; token ids by runs of them, in 2, 4
and 8 bytes; an identity as bytes, hex and base64.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc, parquet

DEEPEST = 4  # containers within containers
MOST = 256 * 2**20  # bytes that one container may decode to
RUN = 8  # tokens in a row


def needles(texts: Iterable[str], identities: Iterable[bytes] = ()) -> dict[bytes, str]:
    """Return bytes to look for -> what they are."""
    found: dict[bytes, str] = {}
    for text in texts:
        escaped = json.dumps(text)[1:-1]
        for said in {text, escaped, json.dumps(escaped)[1:-1], text.casefold()}:
            found |= {said.encode(code): text for code in ("utf-8", "utf-16-le", "utf-16-be")}
    for one in identities:
        wide = base64.b64encode(one).rstrip(b"=")
        found |= dict.fromkeys((one, one.hex().encode(), one.hex().upper().encode(), wide), one.hex())
    return found


def token_needles(ids: Sequence[int]) -> dict[bytes, str]:
    """Return runs of token ids as the bytes that arrays have of them -> in words."""
    runs = [list(ids[at : at + RUN]) for at in range(max(1, len(ids) - RUN + 1))]
    kinds = ((2, "little"), (4, "little"), (8, "little"))
    return {
        b"".join(each.to_bytes(size, order) for each in run): f"tokens {run}"  # type: ignore[arg-type]
        for run in runs
        for size, order in kinds
        if max(run) < 256**size
    }


def found_below(folders: Iterable[Path], sought: Mapping[bytes, str]) -> dict[str, set[str]]:
    """Return file -> what is in it, of all files that have something."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if any(needle in str(path.name).encode() for needle in sought):
                found.setdefault(str(path), set()).add("its name")
            if path.is_file() and not path.is_symlink():
                said = found_in(path.read_bytes(), sought)
                if said:
                    found.setdefault(str(path), set()).update(said)
    return found


def found_in(content: bytes, sought: Mapping[bytes, str]) -> set[str]:
    """Return what is in some bytes, and in what they decode to."""
    return {said for layer in _layers(content, DEEPEST) for needle, said in sought.items() if needle in layer}


def _layers(content: bytes, left: int) -> Iterator[bytes]:
    yield content
    if left:
        for inner in _decoded(content):
            yield from _layers(inner, left - 1)


def _decoded(content: bytes) -> Iterator[bytes]:
    if content[:2] == b"\x1f\x8b":
        yield from _tried(lambda: gzip.decompress(content))
    if content[:1] == b"\x78":
        yield from _tried(lambda: zlib.decompress(content))
    if content[:4] == b"\x28\xb5\x2f\xfd":
        yield from _tried(lambda: pa.input_stream(io.BytesIO(content), compression="zstd").read(MOST))
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            yield from (opened.read(name) for name in opened.namelist())
    if content[:4] == b"PAR1":
        yield from _columns(parquet.read_table(io.BytesIO(content)))
    if content[:6] == b"ARROW1":
        yield from _columns(ipc.open_file(io.BytesIO(content)).read_all())
    if content[:16] == b"SQLite format 3\0":
        yield from _rows(content)


def _tried(decode: object) -> Iterator[bytes]:
    try:
        yield decode()  # type: ignore[operator]
    except (OSError, EOFError, zlib.error):
        return


def _columns(table: pa.Table) -> Iterator[bytes]:
    """Yield the values of each column: texts and bytes one after the other, numbers as an array has them."""
    for column in table.columns:
        for chunk in column.chunks:
            plain = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
            flat = plain
            while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
                flat = flat.flatten()
            if pa.types.is_integer(flat.type):
                yield flat.to_numpy(zero_copy_only=False).tobytes()
            else:
                for value in flat.to_pylist():
                    if value is not None:
                        yield value if isinstance(value, bytes) else str(value).encode()


def _rows(content: bytes) -> Iterator[bytes]:
    """Yield the values of all tables, which may be compressed themselves; their pages are looked at raw."""
    with sqlite3.connect(":memory:") as db:
        rolled_back = content[:18] + b"\1\1" + content[20:]  # a log of its own is another file
        db.deserialize(rolled_back)
        db.text_factory = bytes
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in db.execute(f'SELECT * FROM "{name.decode()}"'):
                yield from (value for value in row if isinstance(value, bytes))
