"""Says which statements of a store a witness had seen by one of its checkpoints: the entries of each release
log up to the head that it knew, and the manifests on which those stand, from exports and evaluations down to
data.

Each is found by its sha256, from that of the checkpoint's own statement on: an entry by the one after it, a
manifest by the entry or the manifest that names it. So whoever writes the store, and signs by the key that is
revoked, adds nothing, whatever date it bears. What no release stands on is not among them, nor is a removal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from ft_dagster.provenance.signing import MANIFEST, RELEASE
from ft_dagster.provenance.witnessed import Position, Seen
from ft_dagster.store.blobs import SHARED, Store
from ft_dagster.store.numbered import numbered
from ft_dagster.store.release_chain import CHAINED, FOLDER, MANIFESTS, link_after, signed_of
from ft_dagster.strict_json import loads

TENANTS = "tenants"
AT_ONCE = 64  # manifests read from a remote store together
_MANIFEST = re.compile(r".+/[0-9a-f]{64}/manifest(?:-[0-9]+)?\.json")
_NO_STATEMENT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class _Known:
    """Keeps what was read of a store. `seen`: kind and sha256 of statements, by checkpoint and log; `named`:
    the manifests that each manifest names, by sha256, by the part of the store.
    """

    seen: dict[tuple[Position, str], frozenset[tuple[str, str]]] = field(default_factory=dict)
    named: dict[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[Store, _Known] = WeakKeyDictionary()


def had_seen(store: Store, position: Position, prefix: str, kind: str, sha256: str) -> bool:
    """Say whether a statement under `prefix` stood at a checkpoint: for a variant, by its own release log;
    for what is shared, by any. `sha256`: of what is signed. Nothing did where there is no witness.
    """
    logs = [prefix] if prefix.startswith(f"{TENANTS}/") else _logs(store)
    return any((kind, sha256) in _seen(store, position, each) for each in logs)


def _logs(store: Store) -> Iterator[str]:
    """Yield the part of a store that each variant has."""
    for tenant in store.names(TENANTS):
        yield from (f"{TENANTS}/{tenant}/{variant}" for variant in store.names(f"{TENANTS}/{tenant}"))


def _seen(store: Store, position: Position, prefix: str) -> frozenset[tuple[str, str]]:
    known = _KNOWN.setdefault(store, _Known()).seen
    if (position, prefix) not in known:
        known[position, prefix] = frozenset(_read_seen(store, position, prefix))
    return known[position, prefix]


def _read_seen(store: Store, position: Position, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield kind and sha256 of all that a log's head at a checkpoint holds."""
    witnesses = store.witnesses
    if witnesses is None or not (logs := witnesses.seen_at(position)):
        return
    entries = _entries(store, prefix, logs.get(witnesses.name_of(prefix), Seen(0, "")))
    hashes = [hashlib.sha256(content).hexdigest() for content, _ in entries]
    wanted = list[str]()
    for at, (content, entry) in enumerate(entries):
        signed = signed_of(entry["schema_version"], content, hashes[:at])
        yield RELEASE, hashlib.sha256(signed).hexdigest()
        wanted += [str(entry[name]) for name in MANIFESTS if entry.get(name)]
    named = {**_named(store, SHARED), **_named(store, prefix)} if wanted else {}
    found = set[str]()
    while wanted:
        sha256 = wanted.pop()
        if sha256 not in found:
            found.add(sha256)
            yield MANIFEST, sha256
            wanted += named.get(sha256, ())


def _entries(store: Store, prefix: str, seen: Seen) -> list[tuple[bytes, Mapping[str, Any]]]:
    """Return the entries of a log up to a head, with what each says; none where one of them is not what the
    one after it names, or the head is not. Of a head that does not name what stands before it, none either.
    """
    paths = [numbered(f"{prefix}/{FOLDER}", number) for number in range(1, seen.entries + 1)]
    try:
        contents = [content for content in store.read_each(paths) if content is not None]
        entries = [(content, loads(content)) for content in contents]
        hashes = [hashlib.sha256(content).hexdigest() for content in contents]
        schemas = [int(entry["schema_version"]) for _, entry in entries]
        links = [
            entry["previous"] == link_after(schemas[at - 1], hashes[:at])
            for at, (_, entry) in enumerate(entries)
            if schemas[at] >= CHAINED
        ]
        held = len(entries) == seen.entries > 0 and hashes[-1] == seen.sha256 and schemas[-1] >= CHAINED
    except (*_NO_STATEMENT, IsADirectoryError):
        return []
    in_order = held and schemas == sorted(schemas)  # no entry that names nothing after one that does
    return entries if in_order and all(links) else []


def _named(store: Store, part: str) -> Mapping[str, frozenset[str]]:
    """Return the manifests that each manifest of a part of a store names, by sha256; of one that retention
    removed, as it was.
    """
    known = _KNOWN.setdefault(store, _Known()).named
    if part not in known:
        paths = [file.path for file in store.walk(part) if _MANIFEST.fullmatch(file.path)]
        found = dict[str, frozenset[str]]()
        for first in range(0, len(paths), AT_ONCE):
            for content in store.read_each(paths[first : first + AT_ONCE]):
                found |= {} if content is None else _inputs(content)
        known[part] = found
    return known[part]


def _inputs(content: bytes) -> dict[str, frozenset[str]]:
    """Return a manifest's sha256, and by it those that it names; nothing of what is none."""
    try:
        said = loads(content)
        if "removed" in said:
            content = str(said["manifest"]).encode()
            said = loads(content)
        named = said["predicate"].get("input_manifests") or {}
        return {hashlib.sha256(content).hexdigest(): frozenset(map(str, named.values()))}
    except _NO_STATEMENT:
        return {}
