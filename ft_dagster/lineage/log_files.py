"""Reads the files of a log, and says what is wrong with one in the same words for every kind of log.

A log's entries are numbered without a gap. `head.json` beside them, written after each, says how many there
were, and the sha256 of the newest. `kind` is what a log is called: a "release log", an "erasure log".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from ft_dagster.errors import UserError
from ft_dagster.store.blobs import Store
from ft_dagster.store.numbered import numbered

T = TypeVar("T")
HEAD = "head.json"
AT_ONCE = 64  # entries read from a remote store together
RESTORE = "Restore the log's folder from a backup"


class Head(NamedTuple):
    """Counts the entries there were when it was written, with the sha256 of the newest; 0 and "" without
    one.
    """

    entries: int
    sha256: str


class StoredEntry(NamedTuple):
    """Holds an entry's file; `content`: None where it is not there."""

    path: str
    content: bytes | None
    recalled: bool = False


def read_head(store: Store, folder: str, kind: str) -> Head:
    """Return the head of a log. Raises UserError for what is none."""
    path = f"{folder}/{HEAD}"
    try:
        head = store.read_json(path)
        entries, sha256 = head["entries"], str(head["sha256"])
        if type(entries) is not int or entries < 1:
            raise ValueError("not a number of entries")
        return Head(entries, sha256)
    except FileNotFoundError:
        return Head(0, "")
    except (ValueError, KeyError, TypeError, IsADirectoryError):
        raise UserError(f"not the head of {_a(kind)}", file=store.uri(path), fix=RESTORE) from None


def write_head(store: Store, folder: str, number: int, content: bytes) -> None:
    """Write the head: how many entries there are, and the newest one's content."""
    head = {"schema_version": 1, "entries": number, "sha256": hashlib.sha256(content).hexdigest()}
    store.write_json(f"{folder}/{HEAD}", head)


def advance_head(store: Store, folder: str, kind: str, number: int, content: bytes) -> None:
    """Write the head, unless others went on from there meanwhile."""
    if read_head(store, folder, kind).entries < number:
        write_head(store, folder, number, content)


def as_of_head(
    store: Store,
    folder: str,
    kind: str,
    head: Head,
    read: Callable[[Head], T],
    *,
    unsettled: Callable[[T], object] = lambda found: False,
) -> T:
    """Return the log by a head, or by the one that another writer put in its place while this was read.
    `unsettled`: whether what was read may be another by then, though nothing was wrong with it.
    """
    while True:
        try:
            found = read(head)
        except UserError:
            now = read_head(store, folder, kind)
            if now == head:
                raise
        else:
            now = read_head(store, folder, kind) if unsettled(found) else head
            if now == head:
                return found
        head = now


def stored_entries(
    store: Store, folder: str, wanted: Iterable[int], *, recalled: bool = False
) -> Iterator[StoredEntry]:
    """Return entries by their numbers, in order; `recalled`: those that this host remembers from there.
    Raises UserError for what is no file.
    """
    left = iter(wanted)
    while paths := [numbered(folder, number) for number in islice(left, AT_ONCE)]:
        known = store.recall(paths) if recalled else {}
        absent = [path for path in paths if path not in known]
        try:
            read = dict(zip(absent, store.read_each(absent), strict=True))
        except IsADirectoryError as error:
            file = error.filename or store.uri(folder)
            raise UserError("no file, where an entry of a log has to be", file=file, fix=RESTORE) from None
        yield from (
            StoredEntry(path, known[path] if path in known else read[path], path in known) for path in paths
        )


def entry_missing(kind: str, file: str) -> UserError:
    return UserError(f"this entry of {_a(kind)} is missing", file=file, fix=RESTORE)


def head_missing(kind: str, folder: str) -> UserError:
    return UserError(f"{HEAD} of this {kind} is missing", file=folder, fix=RESTORE)


def other_than_head(kind: str, file: str) -> UserError:
    problem = f"this entry of {_a(kind)} is not the one that {HEAD} was written after"
    return UserError(problem, file=file, fix=RESTORE)


def other_before(kind: str, file: str, before: int, *, chained: bool = True) -> UserError:
    """Return the error of an entry that names others before it than there are. `before`: how many there are;
    not `chained`: it is the first that names any.
    """
    changed = f"entry {before}" if chained else f"one of the entries 1 to {before}"
    problem = f"{changed} of this {kind} is not what entry {before + 1} was written after"
    return UserError(problem if before else "entries before this one are missing", file=file, fix=RESTORE)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
