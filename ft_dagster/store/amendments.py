"""Changes evidence of a committed artifact for a stated reason, without another manifest: by an amendment
that names the bytes before and after.

`KEY/amendments/000001.json`, ... are created exclusively, each before the files that it speaks of are written
over, so that whoever is killed in between is understood, and can do it again. An amendment changes no digest:
the payload is what it was. It is signed as manifests are; where signatures are asked for, one that bears none
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import FileDigest
from ft_dagster.provenance.signing import AMENDMENT
from ft_dagster.schema_version import refuse_newer
from ft_dagster.store.blobs import Store, as_stored
from ft_dagster.store.numbered import numbered, numbers
from ft_dagster.store.signatures import moment, require, sign
from ft_dagster.strict_json import loads

SCHEMA_VERSION = 1
FOLDER = "amendments"
Kind = Literal["identities removed", "records erased"]
IDENTITIES_REMOVED: Kind = "identities removed"
RECORDS_ERASED: Kind = "records erased"
_ROWS = frozenset({"evidence/rows.parquet", "evidence/dropped.parquet"})
MAY_CHANGE: Mapping[str, frozenset[str]] = {  # by its kind, which files; others an amendment does not change
    IDENTITIES_REMOVED: _ROWS,
    RECORDS_ERASED: _ROWS | {"evidence/tree.parquet"},
}
FIX = "See who wrote it, and delete it or restore it from a backup"


class Change(NamedTuple):
    """Says what bytes a file has now. `path`: in the attempt's folder; `before`, `after`: sha256, in hex."""

    path: str
    before: str
    after: str
    size: int


@dataclass(frozen=True)
class Amendment:
    """Is an amendment as it stands. `manifest`: sha256 of the manifest of the artifact that it amends; `at`:
    ISO 8601, UTC.
    """

    kind: Kind
    manifest: str
    at: str
    changes: tuple[Change, ...]


def amend(store: Store, prefix: str, key_path: str, amendment: Amendment) -> str:
    """Sign and write an amendment under a key, before what it says is done; return its path. Raises
    UserError.
    """
    said = {"schema_version": SCHEMA_VERSION, **asdict(amendment)}
    said["changes"] = [change._asdict() for change in amendment.changes]
    content = as_stored(said)
    sign(store, prefix, content, AMENDMENT)
    number = max(numbers(store, f"{key_path}/{FOLDER}"), default=0)
    while True:
        number += 1
        path = numbered(f"{key_path}/{FOLDER}", number)
        if store.create_exclusively(path, content):
            return path


def amendments(store: Store, prefix: str, key_path: str) -> dict[str, Amendment]:
    """Return all amendments of a key by their path, in order. Raises UserError for one that is none, and for
    one without a signature where signatures are asked for.
    """
    folder = f"{key_path}/{FOLDER}"
    paths = [numbered(folder, number) for number in numbers(store, folder)]
    found = zip(paths, store.read_each(paths), strict=True)
    return {path: read(store, prefix, path, content) for path, content in found if content is not None}


def read(store: Store, prefix: str, path: str, content: bytes) -> Amendment:
    """Parse an amendment. Raises UserError, see `amendments`."""
    where = store.uri(path)
    try:
        said: Mapping[str, Any] = loads(content)
        refuse_newer(said["schema_version"], SCHEMA_VERSION, file=where)
        changes = tuple(
            Change(str(one["path"]), str(one["before"]), str(one["after"]), int(one["size"]))
            for one in said["changes"]
        )
        if not {change.path for change in changes} <= MAY_CHANGE[said["kind"]]:
            raise ValueError
        found = Amendment(said["kind"], str(said["manifest"]), str(said["at"]), changes)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError("not an amendment", file=where, fix=FIX) from None
    require(store, prefix, content, AMENDMENT, moment(found.at), where=where)
    return found


def amended_files(
    store: Store, attempt: str, listed: Mapping[str, FileDigest], found: Sequence[Amendment], manifest: str
) -> dict[str, FileDigest]:
    """Return those listed files that lie there with the bytes that an amendment gave them. `attempt`: the
    path of their folder; `manifest`: sha256 of what lists them.
    """
    changes = [change for one in found if one.manifest == manifest for change in one.changes]
    files: dict[str, FileDigest] = {}
    for name in dict.fromkeys(change.path for change in changes if change.path in listed):
        path = f"{attempt}/{name}"
        there = store.sha256(path) if store.exists(path) else ""
        last = next((one for one in reversed(changes) if (one.path, one.after) == (name, there)), None)
        if last is not None and follows(last, listed[name].sha256, changes):
            files[name] = FileDigest(listed[name].path, last.size, last.after)
    return files


def follows(change: Change, listed: str, changes: Sequence[Change]) -> bool:
    """Say whether changes lead from the bytes that a manifest lists to those of one of them."""
    known, before = {listed}, len(changes) + 1
    while len(known) != before:
        before = len(known)
        known |= {one.after for one in changes if one.path == change.path and one.before in known}
    return change.before in known
