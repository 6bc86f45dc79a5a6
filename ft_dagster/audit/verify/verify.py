"""Hold a whole store against itself: bytes, trees, ledgers, the chain of manifests, logs of releases and
erasures, the index.

What was checked is kept beside the index until all is, so that a check that was ended goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.audit.audit import LOOK_THERE, Audit, index_error, index_folder, rows_stand
from ft_dagster.audit.figures import read
from ft_dagster.audit.index.artifact_records import ASKED, HAVE_RECORDS, times_of
from ft_dagster.audit.index.follow import MALFORMED, indexed_members, problem_of
from ft_dagster.audit.index.index import Indexed, created, digest_of, tenant_of
from ft_dagster.audit.signed import signed_words
from ft_dagster.audit.verify.amended import check_amendments
from ft_dagster.audit.verify.store_files import RESTORE, problems_around
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS
from ft_dagster.errors import UserError
from ft_dagster.files import write_whole
from ft_dagster.lineage.graph import inputs_of, missing
from ft_dagster.records.record_keys import RESTORE as RESTORE_KEY
from ft_dagster.records.record_keys import SHARED_OWNER
from ft_dagster.records.record_tree import TREE, TreeHead, check_tree
from ft_dagster.records.sealed_rows import has_identities
from ft_dagster.report.figures import counted
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TRAINING_MIXTURE
from ft_dagster.store import Artifact, verify_artifact
from ft_dagster.store.artifacts import Removed
from ft_dagster.store.removal import check_tombstone, outlives
from ft_dagster.store.signatures import look_again
from ft_dagster.store.transfer import OTHER_BYTES

SAVE_SECONDS = 5.0
NO_RECORDS = hashlib.sha256().hexdigest()
MOST_SECONDS = 86_400.0  # after which a check that was ended is not gone on with
CANNOT_NOTICE = (
    "manifests, and all that names them, that were rewritten or removed together before an audit looked",
    "a head that was pointed at another artifact of its own stage, with a later date",
    "what lies in attempts that nothing committed, in claims, in reports and in notes where a digest lies",
    "files that stand beside the folders of keys, under names that nothing reads",
)


@dataclass(frozen=True)
class Verified:
    """Says what a check found. `artifacts`: how many were looked at, `before`: of them by a check that was
    ended, `removed`: of those now looked at, by retention. `bytes`: hashed now. `problems`: one line each;
    none where all holds that was checked. `unchecked`: what could not be checked, and why. `since`: from when
    on the index remembers what logs, heads and tries were, ISO 8601; empty: it was made by an earlier
    version. `signed`: whose signatures were asked for, and what bears none, in one line. `unsalted`: files
    of record evidence that hold unsalted identities, which `audit forget-identities` takes out. `amended`:
    how many artifacts have evidence of other bytes than their manifest lists, by an amendment.
    """

    artifacts: int
    before: int
    bytes: int
    seconds: float
    problems: tuple[str, ...]
    removed: int = 0
    unchecked: tuple[str, ...] = ()
    since: str = ""
    signed: str = ""
    unsalted: int = 0
    amended: int = 0

    @property
    def holds(self) -> bool:
        return not self.problems


def verify(
    audit: Audit,
    only: Sequence[Indexed] | None = None,
    say: Callable[[str], None] = lambda line: None,
    *,
    fresh: bool = False,
) -> Verified:
    """Hash every artifact again and hold it against all that speaks of it; `only` some of them, else all, and
    the logs of releases and erasures. `fresh`: also what a check that was ended looked at. Goes on after what
    does not hold.

    Raises UserError where nothing is stored, of the tenant alone whose auditor asks.
    """
    begun, now = time.monotonic(), datetime.now(UTC)
    look_again(audit.store)
    wanted = audit.allowed(audit.index.all() if only is None else list(only))
    state = _LookedAt(
        kept_state(audit) if only is None else None, {"store": audit.store.url, "tenant": audit.tenant}, now
    )
    if not fresh:
        state.read()
    todo = [each for each in wanted if f"{each.place.path}@{each.manifest}" not in state.done]
    problems = list(state.problems)
    if only is None:
        indexed = {each.problem for each in audit.index.unread()}  # told of each artifact, see `_unread`
        unread = [each.problem for each in audit.followed.problems if audit.allows_part(each.prefix)]
        problems += [line for line in unread if line not in indexed and line not in problems]
    damage = audit.index.damage()
    if damage is not None:
        problems.append(str(index_error(audit, f"the index is damaged: {damage}")))
    hashed = removed = 0
    for number, each in enumerate(todo, 1):
        found = _artifact_found(audit, each)
        hashed += found.bytes
        removed += found.removed
        problems += [line for line in found.problems if line not in problems]
        state.add(f"{each.place.path}@{each.manifest}", problems)
        left = (time.monotonic() - begun) / number * (len(todo) - number)
        say(f"{number:,} of {len(todo):,} artifacts, {hashed / 1e9:.2f} GB; about {left:.0f} s left")
    checked = check_amendments(audit, wanted)
    problems += [line for line in checked.problems if line not in problems]
    if only is None:
        problems += [line for line in problems_around(audit, wanted) if line not in problems]
    state.forget()
    own = [each for each in wanted if audit.tenant in (None, each.tenant)]
    if only is None and not own and not problems:
        raise _nothing(audit)
    seconds = time.monotonic() - begun
    before, unchecked = len(wanted) - len(todo), tuple(_without_key(audit, wanted))
    since = audit.index.since()
    return Verified(
        len(wanted),
        before,
        hashed,
        seconds,
        tuple(problems),
        removed,
        unchecked,
        since,
        signed_words(audit, wanted, logs=only is None),
        _unsalted(audit, wanted),
        checked.amended,
    )


def kept_state(audit: Audit) -> Path:
    """Return where a check of all keeps what it looked at, until it ends."""
    return index_folder(audit.settings) / f"verify{'' if audit.tenant is None else f'-{audit.tenant}'}.json"


class _LookedAt:
    """Keeps what was looked at in a file. `of`: whose check it is; one of others, or begun long ago, is not
    gone on with.
    """

    def __init__(self, file: Path | None, of: Mapping[str, Any], now: datetime) -> None:
        self._file, self._of, self._begun = file, of, now
        self.done: set[str] = set()
        self.problems: list[str] = []
        self._saved = time.monotonic()

    def read(self) -> None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads("{}" if self._file is None else self._file.read_text("utf-8"))
            begun = datetime.fromisoformat(content["begun"])
            if content["of"] == self._of and 0 <= (self._begun - begun).total_seconds() < MOST_SECONDS:
                self.done, self.problems = set(content["done"]), list(content["problems"])
                self._begun = begun

    def add(self, name: str, problems: Sequence[str]) -> None:
        self.done.add(name)
        if self._file is not None and time.monotonic() - self._saved > SAVE_SECONDS:
            self._saved = time.monotonic()
            content = {
                "schema_version": 2,
                "of": self._of,
                "begun": self._begun.isoformat(),
                "done": sorted(self.done),
                "problems": list(problems),
            }
            write_whole(self._file, json.dumps(content).encode())

    def forget(self) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)


class _FoundAt(NamedTuple):
    """Says of an artifact what does not hold, bytes hashed, whether retention removed it."""

    problems: list[str]
    bytes: int = 0
    removed: bool = False


def _artifact_found(audit: Audit, indexed: Indexed) -> _FoundAt:
    where = audit.store.uri(indexed.place.manifest_of(indexed.generation))
    try:
        said = audit.read_manifest(indexed)
    except MALFORMED as error:
        return _FoundAt([problem_of(error, where)])
    removed = isinstance(said, Removed)
    artifact = said.artifact if isinstance(said, Removed) else said
    checks: list[Callable[[Audit, Indexed, Artifact], None]] = [
        *((_check_removal, _check_left) if removed else (_check_bytes,)),
        _check_figures, _check_tree, _check_ledger, _check_inputs, _check_row, _check_index,
    ]  # fmt: skip
    problems = _unread(audit, indexed)
    for check in checks:
        try:
            check(audit, indexed, artifact)
        except MALFORMED as error:
            problems.append(problem_of(error, audit.store.uri(artifact.path)))
    sizes = (
        file.size for name, file in artifact.files.items() if not removed or outlives(artifact.place, name)
    )
    return _FoundAt(list(dict.fromkeys(problems)), sum(sizes), removed)


def _unread(audit: Audit, indexed: Indexed) -> list[str]:
    """Say why its records could not be read; none where they went with what retention removed."""
    if indexed.problem is None:
        return []
    try:
        stands = rows_stand(audit, indexed)
    except MALFORMED:  # of what it was made of, which is told of that
        stands = True
    return [indexed.problem] if stands else []


def _check_removal(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    """Check that a tombstone says what was claimed: nobody hides by one that files were deleted."""
    said = audit.read_manifest(indexed)
    if isinstance(said, Removed):
        check_tombstone(audit.store, said)


def _check_left(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    """Check that what outlives an artifact has its bytes, or those of an amendment."""
    amended = artifact.as_amended(audit.store) or artifact
    for name, file in artifact.files.items():
        if outlives(artifact.place, name):
            stored = f"{artifact.path}/{name}"
            if not audit.store.exists(stored):
                where = audit.store.uri(stored)
                raise UserError("a stored file is missing that retention keeps", file=where, fix=RESTORE)
            if audit.store.sha256(stored) not in (file.sha256, amended.files[name].sha256):
                where = audit.store.uri(stored)
                raise UserError(f"a stored file {OTHER_BYTES}", file=where, fix=RESTORE)


def _check_bytes(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    verify_artifact(audit.store, artifact, audit.settings.cache_folder)


def _check_figures(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    read(audit, indexed)


def _check_tree(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    if indexed.place.stage not in HAVE_RECORDS:
        return
    where = audit.store.uri(artifact.manifest_path)
    head = TreeHead.of(artifact.figures, file=where)
    has = audit.stored.has(artifact, f"evidence/{TREE}")
    if head is None and not has:
        return
    if head is None or not has:
        raise UserError("a record tree without its root, or a root without its tree", file=where, fix=RESTORE)
    key = audit.keys(indexed.tenant).of_id(head.key)
    check_tree(audit.stored.evidence(artifact), head, key)


def _without_key(audit: Audit, wanted: Sequence[Indexed]) -> Iterator[str]:
    """Yield whose record trees were not checked against the key that orders them, for it is lost."""
    trees = Counter[tuple[str, str]]()
    for each in wanted:
        with suppress(*MALFORMED):  # told of the artifact
            head = TreeHead.of(audit.artifact(each).figures) if each.place.stage in HAVE_RECORDS else None
            if head is not None and audit.keys(each.tenant).of_id(head.key) is None:
                trees[each.tenant, head.key] += 1
    for (owner, key), number in trees.items():
        of = f"{counted(number, 'record tree')} of {owner or 'what is shared'}"
        yield f"the order of {of}: the key {key} is not in {audit.settings.keys_folder}. {RESTORE_KEY}"


def _unsalted(audit: Audit, wanted: Sequence[Indexed]) -> int:
    """Count the files of record evidence that hold unsalted identities."""
    found = 0
    for each in (one for one in wanted if one.place.stage in HAVE_RECORDS):
        with suppress(*MALFORMED):  # told of the artifact
            artifact = audit.artifact(each)
            names = (f"evidence/{name}" for name in (ORIGINS, DROPPED))
            files = (audit.stored.file(artifact, name) for name in names if audit.stored.has(artifact, name))
            found += sum(map(has_identities, files))
    return found


def _check_ledger(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    mixture = (
        audit.index.parent(indexed, TRAINING_MIXTURE.name)
        if indexed.place.stage == FINE_TUNED_MODEL.name
        else None
    )
    if mixture is not None and rows_stand(audit, mixture):
        times_of(audit.stored, artifact, audit.artifact(mixture))


def _check_inputs(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    """Check that every artifact that it was made from is there, with the manifest that it had then."""
    for name, (digest, manifest) in missing(audit.index, indexed).items():
        if manifest is not None:
            same = audit.index.with_digest(digest)
            altered = "has another manifest than when it was used" if same else "is gone"
            raise UserError(
                f"the {name} that it was made of {altered}",
                file=audit.store.uri(artifact.manifest_path),
                value=digest[:12],
                fix=RESTORE,
            )


def _check_row(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    """Check that the index says of it, and of what it was made from, what its manifest says."""
    row = (indexed.digest, indexed.created, indexed.tenant, audit.index.inputs(indexed))
    if row != (artifact.digest, created(artifact), tenant_of(artifact.place.prefix), inputs_of(artifact)):
        raise index_error(audit, f"the index says otherwise of {artifact.place.path} than its manifest")


def _check_index(audit: Audit, indexed: Indexed, artifact: Artifact) -> None:
    """Check that the index says of its records what the evidence says."""
    if indexed.problem or indexed.place.stage not in (*HAVE_RECORDS, *ASKED, FINE_TUNED_MODEL.name):
        return
    if not rows_stand(audit, indexed):
        return
    if indexed.place.stage == FINE_TUNED_MODEL.name:
        mixture = audit.index.parent(indexed, TRAINING_MIXTURE.name)
        if mixture is None:
            return
        times = times_of(audit.stored, artifact, audit.artifact(mixture))
        same = times.astype("<u4").tobytes() == audit.index.all_times(indexed.id)
    else:
        owner, _ = audit.owners()[indexed.tenant]
        keys, shared = audit.keys(indexed.tenant), audit.keys(SHARED_OWNER)
        members = indexed_members(audit.stored, artifact, keys, shared)
        there = digest_of(owner, indexed.id, members)
        same = there == audit.digests.get(indexed.id, NO_RECORDS) and len(members) == indexed.records
    if not same:
        raise index_error(audit, f"the index says otherwise of {artifact.place.path} than its evidence")


def _nothing(audit: Audit) -> UserError:
    of = "" if audit.tenant is None else f" of {audit.tenant}"
    return UserError(
        f"nothing{of} is stored there, so nothing was verified", file=audit.store.url, fix=LOOK_THERE
    )
