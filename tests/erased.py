"""Looks for texts and identities in whatever lies below folders, as who got the disk would.

Every file is read as bytes, and as what it decodes to: gzip, zlib and zstd as far as they can be read, zip,
Parquet and Arrow (of all columns the values, and dictionaries whole), SQLite by its raw pages, free ones and
journals too. A text is looked for whole, as UTF-8, UTF-16 and as JSON escapes it; token ids by runs of them,
in 2, 4 and 8 bytes; an identity as bytes, hex and base64. `audit/test_erased_search.py` plants each.
"""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc, parquet

PIECE = 4096  # bytes decoded together
DEEPEST = 4  # containers within containers
MOST = 256 * 2**20  # bytes that one container may decode to
RUN = 8  # tokens in a row


def needles(texts: Iterable[str], identities: Iterable[bytes] = ()) -> dict[bytes, str]:
    """Return bytes to look for -> what they are."""
    found: dict[bytes, str] = {}
    for text in texts:
        escaped = {json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
        twice = {json.dumps(one, ensure_ascii=ascii)[1:-1] for one in escaped for ascii in (True, False)}
        for said in {text, text.casefold(), *escaped, *twice}:
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
    if content[:2] == b"\x1f\x8b" or content[:1] == b"\x78":
        yield b"".join(_inflated(content))
    if content[:4] == b"\x28\xb5\x2f\xfd":
        stream = pa.input_stream(io.BytesIO(content), compression="zstd")
        yield _as_far(lambda: stream.read(PIECE))
    if content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            yield from (opened.read(name) for name in opened.namelist())
    if content[:4] == b"PAR1":
        yield from _columns(parquet.read_table(io.BytesIO(content)))
    if content[:6] == b"ARROW1":
        yield from _columns(ipc.open_file(io.BytesIO(content)).read_all())
    if content[:4] == b"\xff\xff\xff\xff":  # what an Arrow stream begins with, and other files may
        with suppress(pa.ArrowException, OSError):
            yield from _columns(ipc.open_stream(io.BytesIO(content)).read_all())
    if content[:16] == b"SQLite format 3\0":
        yield from _rows(content)


def _inflated(content: bytes) -> Iterator[bytes]:
    """Yield each part of what gzip or zlib wrote, one after the other."""
    while content[:2] == b"\x1f\x8b" or content[:1] == b"\x78":
        opened, given = zlib.decompressobj(32 + zlib.MAX_WBITS), io.BytesIO(content)
        yield _as_far(partial(_more, opened, given))
        content = opened.unused_data + given.read() if opened.eof else b""


def _more(opened: zlib._Decompress, given: io.BytesIO) -> bytes:
    """Return a further piece; empty at the end."""
    while not opened.eof and (piece := given.read(PIECE)):
        if out := opened.decompress(piece):
            return out
    return b""


def _as_far(read: Callable[[], bytes]) -> bytes:
    """Return all pieces that can be read, of what was cut or damaged those before."""
    found = bytearray()
    with suppress(OSError, EOFError, zlib.error):
        while len(found) < MOST and (piece := read()):
            found += piece
    return bytes(found)


def _columns(table: pa.Table) -> Iterator[bytes]:
    for column in table.columns:
        for chunk in column.chunks:
            yield from _values(chunk)


def _values(array: pa.Array) -> Iterator[bytes]:
    """Yield the values of a column, also those within others, and those in a dictionary that no row uses:
    texts and bytes one after the other, numbers as an array has them.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        yield from _values(array.dictionary)
        yield from _values(array.dictionary_decode())
    elif pa.types.is_map(kind):
        yield from _values(array.keys)
        yield from _values(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _values(array.values)
    elif pa.types.is_struct(kind):
        for at in range(kind.num_fields):
            yield from _values(array.field(at))
    elif pa.types.is_integer(kind):
        yield array.drop_null().to_numpy(zero_copy_only=False).tobytes()
    else:
        for value in array.to_pylist():
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
