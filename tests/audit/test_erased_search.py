"""The search for remains of a record finds what is planted in each format that it says it reads, and nothing
where nothing is.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from tests.erased import found_below, found_in, needles, token_needles

TEXT = 'Where is the "Größe" of the quay?\nAsk Ann.'
NAME = bytes(range(100, 132))  # an identity
IDS = [70_001, 15, 16, 17, 2**20, 19, 20, 21, 22]
SOUGHT = needles([TEXT], [NAME])
OTHERS = [f"{number * 7919 % 1000:x} lies beyond the {number}th hill" for number in range(400)]
BLOCKS = [number.to_bytes(4, "big") for number in range(100_000)]  # more than zstd compresses together
Planted = Callable[[list[str]], bytes]


def plain(texts: list[str]) -> bytes:
    return "\n".join(texts).encode()


def halves(content: bytes) -> tuple[bytes, bytes]:
    """Cut within the text that is planted, where there is one."""
    at = content.find(TEXT.encode()) + 9
    return content[:at], content[at:]


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def zipped(texts: list[str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.txt", "nothing")
        opened.writestr("b/c.txt", plain(texts))
    return made.getvalue()


def parquets(column: Callable[[list[str]], pa.Array], compression: str = "zstd") -> Planted:
    def planted(texts: list[str]) -> bytes:
        made = io.BytesIO()
        table = pa.table({"number": range(len(column(texts))), "said": column(texts)})
        parquet.write_table(table, made, compression=compression, write_statistics=False)
        return made.getvalue()

    return planted


def arrow(column: Callable[[list[str]], pa.Array], *, stream: bool = False) -> Planted:
    def planted(texts: list[str]) -> bytes:
        made, table = io.BytesIO(), pa.table({"said": column(texts)})
        options = ipc.IpcWriteOptions(compression="zstd")
        with (ipc.new_stream if stream else ipc.new_file)(made, table.schema, options=options) as writer:
            writer.write_table(table)
        return made.getvalue()

    return planted


def encoded(texts: list[str]) -> pa.Array:
    return pa.array(texts).dictionary_encode()


def unused(texts: list[str]) -> pa.Array:
    """A dictionary of all texts, of which rows use the first alone."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * 9, pa.int32()), pa.array(texts))


def lists(texts: list[str]) -> pa.Array:
    return pa.array([[[text], []] for text in texts], pa.large_list(pa.list_(pa.string())))


def structs(texts: list[str]) -> pa.Array:
    return pa.array([{"turns": [{"role": "user", "raw": text.encode()}]} for text in texts])


def maps(texts: list[str]) -> pa.Array:
    return pa.array([[(text.encode(), 1)] for text in texts], pa.map_(pa.binary(), pa.int64()))


def database(texts: list[str], *, packed: bool = False, removed: bool = False, wal: bool = False) -> bytes:
    """The bytes of a database. `packed`: its values are compressed; `removed`: its rows were deleted; `wal`:
    it has a log of its own, as the audit's index.
    """
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE said (number INTEGER PRIMARY KEY, content)")
        rows = [(zlib.compress(plain([*OTHERS, text])) if packed else text,) for text in texts]
        db.executemany("INSERT INTO said (content) VALUES (?)", rows)
        db.commit()
        if removed:
            db.execute("PRAGMA secure_delete = off")
            db.execute("DELETE FROM said")
            db.commit()
        content = db.serialize()
    return content[:18] + b"\2\2" + content[20:] if wal else content


PLAIN: dict[str, Planted] = {
    "UTF-8": plain,
    "UTF-16": lambda texts: "\n".join(texts).encode("utf-16"),
    "UTF-16, big endian": lambda texts: "\n".join(texts).encode("utf-16-be"),
    "JSON": lambda texts: json.dumps({"texts": texts}).encode(),
    "JSON that is not ASCII alone": lambda texts: json.dumps(texts, ensure_ascii=False).encode(),
    "JSON in JSON": lambda texts: json.dumps([json.dumps(texts)]).encode(),
    "in lower case": lambda texts: plain([text.casefold() for text in texts]),
    "a database": database,
    "free pages of a database": lambda texts: database(texts, removed=True),
}
DECODED: dict[str, Planted] = {
    "gzip": lambda texts: gzip.compress(plain(texts)),
    "gzip, the second part": lambda texts: gzip.compress(b"one") + gzip.compress(plain(texts)),
    "gzip, a text in two parts": lambda texts: b"".join(map(gzip.compress, halves(plain(texts)))),
    "gzip, with something after it": lambda texts: gzip.compress(plain(texts)) + b"more",
    "gzip, of a writer that was killed": lambda texts: gzip.compress(plain([*texts, *OTHERS]))[:-400],
    "zlib": lambda texts: zlib.compress(plain(texts)),
    "zlib, cut": lambda texts: zlib.compress(plain([*texts, *OTHERS]))[:-400],
    "zstd": lambda texts: zstd(plain(texts)),
    "zstd, the second frame": lambda texts: zstd(b"one") + zstd(plain(texts)),
    "zstd, cut": lambda texts: zstd(plain([*texts, *OTHERS]) + b"".join(BLOCKS))[:-400],
    "zip": zipped,
    "gzip in zlib": lambda texts: zlib.compress(gzip.compress(plain(texts))),
    "Parquet in zip in gzip": lambda texts: gzip.compress(zipped_bytes(parquets(pa.array)(texts))),
    "Parquet": parquets(pa.array),
    "Parquet, snappy": parquets(pa.array, "snappy"),
    "Parquet of bytes": parquets(lambda texts: pa.array([text.encode() for text in texts])),
    "Parquet of a dictionary": parquets(encoded),
    "Parquet, unused in a dictionary": parquets(unused),
    "Parquet of lists": parquets(lists),
    "Parquet of turns": parquets(structs),
    "Parquet of maps": parquets(maps),
    "Parquet of compressed values": parquets(lambda texts: pa.array([gzip.compress(plain(texts))])),
    "Arrow": arrow(pa.array),
    "Arrow stream": arrow(pa.array, stream=True),
    "Arrow of a dictionary": arrow(encoded),
    "Arrow, unused in a dictionary": arrow(unused),
    "compressed values of a database": lambda texts: database(texts, packed=True),
    "a database with a log": lambda texts: database(texts, packed=True, wal=True),
}


def zipped_bytes(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("one.parquet", content)
    return made.getvalue()


def raw(content: bytes) -> bool:
    return any(needle in content for needle in SOUGHT)


@pytest.mark.parametrize("kind", [*PLAIN, *DECODED])
def test_a_text_is_found_where_it_was_planted_and_nowhere_else(kind: str) -> None:
    planted = {**PLAIN, **DECODED}[kind]
    content = planted([*OTHERS[:200], TEXT, *OTHERS[200:]])
    assert raw(content) == (kind in PLAIN)
    assert found_in(content, SOUGHT) == {TEXT}
    assert found_in(planted(OTHERS), SOUGHT) == set()


@pytest.mark.parametrize(
    "said",
    [NAME, NAME.hex().encode(), NAME.hex().upper().encode(), base64.b64encode(NAME)],
    ids=["bytes", "hex", "HEX", "base64"],
)
def test_an_identity_is_found_in_each_form(said: bytes) -> None:
    assert found_in(b"before" + said + b"after", SOUGHT) == {NAME.hex()}
    assert found_in(gzip.compress(b"before" + said + b"after"), SOUGHT) == {NAME.hex()}
    column = pa.array([said, said[::-1]], pa.binary(len(said)))
    assert found_in(parquets(lambda _: column)([]), SOUGHT) == {NAME.hex()}
    assert found_in(b"before" + said[1:] + b"after", SOUGHT) == set()


SIZES = [("int64", IDS), ("uint32", IDS), ("uint16", [number % 2**16 for number in IDS])]


@pytest.mark.parametrize(("kind", "ids"), SIZES)
@pytest.mark.parametrize("written", ["raw", "Parquet", "Parquet of lists", "with nulls", "of one length"])
def test_token_ids_are_found_in_each_size(kind: str, ids: list[int], written: str) -> None:
    def content(ids: list[int]) -> bytes:
        tokens = pa.array([*range(50), *ids, *range(50)], getattr(pa, kind)())
        made: dict[str, Callable[[], pa.Array]] = {
            "raw": lambda: tokens,
            "Parquet": lambda: tokens,
            "Parquet of lists": lambda: pa.ListArray.from_arrays(pa.array([0, 3, len(tokens)]), tokens),
            "with nulls": lambda: pa.concat_arrays([pa.nulls(2, tokens.type), tokens]),
            "of one length": lambda: pa.FixedSizeListArray.from_arrays(tokens, len(tokens)),
        }
        column = made[written]()
        return bytes(tokens.buffers()[1]) if written == "raw" else parquets(lambda _: column)([])

    sought = token_needles(ids)
    assert found_in(content(ids), sought) == set(sought.values())
    assert found_in(content(ids[:-2]), sought) == set()


def test_files_below_folders_are_named_with_what_is_in_them(tmp_path: Path) -> None:
    def put(name: str, content: Any) -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return str(file)

    put("a/.hidden/none.txt", plain(OTHERS))
    hidden = put("a/.hidden/draft.gz", gzip.compress(plain([TEXT])))
    named = put(f"b/{NAME.hex()}.json", b"{}")
    both = put(f"b/{NAME.hex()}.txt", TEXT.encode() + NAME)
    put("c/not_looked_at.txt", TEXT.encode())
    assert found_below([tmp_path / "a", tmp_path / "b"], SOUGHT) == {
        hidden: {TEXT},
        named: {"its name"},
        both: {"its name", TEXT, NAME.hex()},
    }


def test_what_a_database_writes_ahead_is_found(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "index.db")) as db:
        db.execute("PRAGMA journal_mode = wal")
        db.execute("CREATE TABLE said (content)")
        db.execute("INSERT INTO said VALUES (?)", (TEXT,))
        db.commit()
        assert found_below([tmp_path], SOUGHT) == {str(tmp_path / "index.db-wal"): {TEXT}}
