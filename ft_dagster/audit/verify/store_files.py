"""Checks what stands around artifacts, and is none: logs of releases and of erasures, heads, tries, the code
that is kept of them; and what stands among them and is nobody's.

Heads are written over and tries are not, so that neither tells by itself that it was altered or deleted: the
index remembers those that a check saw, as it does entries of both kinds of logs.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath

from ft_dagster.audit.audit import Audit, index_error
from ft_dagster.audit.index.follow import (
    AT_ONCE,
    MALFORMED,
    NO_STAGES,
    log_entries,
    problem_of,
    tenant_prefixes,
)
from ft_dagster.audit.index.index import Indexed, LogEntry, SeenFile, tenant_of
from ft_dagster.audit.replay.kept_code import kept_code
from ft_dagster.errors import UserError
from ft_dagster.lineage import erasures
from ft_dagster.lineage.log import entry_path, folder_of, read_log, uncounted_words
from ft_dagster.lineage.log_files import HEAD
from ft_dagster.lineage.tries import (
    LINEAGE,
    folders_of_tries,
    ordinals_of,
    read_folder,
    refuse_uncounted,
    refuse_unrecorded,
)
from ft_dagster.stage_entries import EVALUATION, GENERAL_CORPUS, MODEL_EXPORT
from ft_dagster.store import SHARED, Artifact, Place, read_head
from ft_dagster.store.artifacts import find_artifact, generations
from ft_dagster.store.removal import KEPT, check_claim
from ft_dagster.strict_json import loads

RESTORE = "Restore it from a backup"
WHO_WROTE_IT = "See who wrote it, and delete it, or have the same done again"
ON_PURPOSE = f"{RESTORE}; if a backup was restored on purpose, `ft-dagster audit index --again`"
NOBODYS = "nobody wrote it there. Look where it came from, and delete it"
HEADS = "heads"
_HEAD = re.compile(rf".+/{HEADS}(?:/[^/.][^/]*)?")
_TRY = re.compile(rf"tenants/[^/]+/[^/]+/tries/([0-9a-f]{{64}}|{LINEAGE}/[0-9]{{6}})/[0-9]{{6}}\.json")
_ERASURE = re.compile(rf"{erasures.FOLDER}/[^/]+/[0-9]{{6,}}\.json")
_PART = rf"(?P<prefix>tenants/[^/]+/[^/]+|{SHARED}(?:/corpora/[^/]+)?)"
_UNDER_KEY = re.compile(rf"{_PART}/(?P<stage>[a-z_]+)/(?P<key>[0-9a-f]{{64}})/(?P<rest>.+)")
_CLAIM = re.compile(
    rf"{_PART}/(?P<stage>[a-z_]+)/(?P<key>[0-9a-f]{{64}})/claims/(?P<attempt>(?!training/)[^/]+)/[0-9]{{6}}\.json"
)
_OF_KEY = re.compile(
    r"(?:claims/[^/]+|amendments)/[0-9]{6}\.json|divergences/[^/]+\.json|[^/]+/(?:payload|evidence)/.+"
    r"|(?:.+/)?\.[^/]+\.[0-9a-f]{32}"  # the draft of a writer that was killed
)
Check = Callable[[Audit, str, str], Iterable[str]]


def problems_around(audit: Audit, artifacts: Iterable[Indexed]) -> Iterator[str]:
    """Yield what does not hold of it, one line each. `artifacts`: of which the code is looked at that made
    them.
    """
    known = defaultdict[str, list[LogEntry]](list)  # entries of release logs, by the part of the store
    wrong = set[str]()  # heads, and folders of tries, of which something was told
    for entry in (*audit.index.gone_releases(), *audit.index.releases()):
        known[entry.prefix].append(entry)
    for prefix in sorted({*tenant_prefixes(audit.store), *known}):
        if audit.tenant in (None, tenant_of(prefix)):
            yield from _told(audit, partial(_of_log, known=known[prefix]), prefix, "releases")
            for folder in folders_of_tries(audit.store, prefix):
                lines = _told(audit, _of_tries, prefix, folder)
                wrong |= {f"{prefix}/{folder}"} if lines else set()
                yield from lines or _told(audit, _uncounted, prefix, folder)
    if audit.store.witnesses is not None and audit.tenant is None:
        logs = dict(_logs(audit))
        yield from audit.store.witnesses.faults(logs, set(tenant_prefixes(audit.store)) - logs.keys())
    files = [file.path for file in audit.store.walk() if audit.allows_part(file.path)]
    unnamed = [path for path in files if not _is_text(path)]
    yield from (f"{audit.store.uri(ascii(path)[1:-1])}: {NOBODYS}" for path in sorted(unnamed))
    files = [path for path in files if _is_text(path)]
    heads = sorted(path for path in files if _HEAD.fullmatch(path))
    for head in map(PurePosixPath, heads):
        part = head.parent if head.name == HEADS else head.parent.parent
        lines = _told(audit, _of_head, str(part), str(head.relative_to(part)))
        wrong |= {str(head)} if lines else set()
        yield from lines
    yield from _without_head(audit, heads)
    yield from _without_tries(audit)
    for folder in _erasure_logs(audit):
        lines = _told(audit, _of_erasures, folder, HEAD)
        wrong |= {folder} if lines else set()
        yield from lines
    kept = filter(lambda path: _TRY.fullmatch(path) or _ERASURE.fullmatch(path), files)
    yield from _since_seen(audit, {*heads, *kept}, wrong)
    yield from _of_claims(audit, files)
    yield from _nobodys(audit, files)
    yield from _of_code(audit, artifacts)


def _logs(audit: Audit) -> Iterator[tuple[str, tuple[Sequence[str], str]]]:
    """Yield each part of the store with the hashes of its release log, which may be gone, and that log's
    place; none of one that cannot be read, of which the check of the log tells.
    """
    for prefix in tenant_prefixes(audit.store):
        with suppress(UserError, *MALFORMED):
            yield prefix, (read_log(audit.store, prefix).hashes, audit.store.uri(folder_of(prefix)))


def _is_text(path: str) -> bool:
    """Say whether a path is UTF-8, as all that is written to a store."""
    with suppress(UnicodeEncodeError):
        return bool(path.encode())
    return False


def _told(audit: Audit, check: Check, prefix: str, name: str) -> list[str]:
    """Return what a check says of a file or a folder in a variant's part of the store, or why it cannot be
    read.
    """
    try:
        return list(check(audit, prefix, name))
    except UserError as error:
        return [str(error)]
    except MALFORMED as error:
        return [problem_of(error, audit.store.uri(f"{prefix}/{name}"))]


def _without_head(audit: Audit, heads: Sequence[str]) -> Iterator[str]:
    """Yield the stages of a variant, or a corpus, of which artifacts stand and no head was written."""
    from ft_dagster.stages.chain import CHAIN

    having = {(_part_of(path), PurePosixPath(path).stem) for path in heads}
    standing = dict[tuple[str, str], None]()
    for stage in (GENERAL_CORPUS.name, *(each.name for each in CHAIN)):
        for each in audit.allowed(audit.index.of_stage(stage)):
            if each.place.prefix != SHARED and isinstance(_said(audit, each), Artifact):
                standing[each.place.prefix, stage] = None
    for prefix, stage in standing:
        if (prefix, stage) not in having:
            why = "no head points at what stands: it was deleted, or a run was killed just before it wrote it"
            again = "the corpora" if stage == GENERAL_CORPUS.name else "the variant"
            yield f"{audit.store.uri(prefix)}/{HEADS}/{stage}.json: {why}. {RESTORE}, or run {again} again"


def _part_of(head: str) -> str:
    """Return whose a head is: a variant's, whose experiments have heads of their own, or a corpus'."""
    owner, *names = head.split("/")
    return "/".join((owner, *names[:2]))


def _said(audit: Audit, each: Indexed) -> object:
    try:
        return audit.said(each)
    except MALFORMED:  # told of the artifact
        return None


def _without_tries(audit: Audit) -> Iterator[str]:
    """Yield weights that were put to questions without a record of it."""
    made = defaultdict[str, list[Artifact]](list)
    for each in audit.index.of_stage(EVALUATION.name):
        if audit.tenant in (None, each.tenant):
            with suppress(*MALFORMED):  # told of the artifact
                made[each.place.prefix].append(audit.artifact(each))
    for prefix, evaluations in made.items():
        for weights, ordinals in ordinals_of(evaluations).items():
            try:
                refuse_unrecorded(audit.store, prefix, {weights: ordinals})
            except UserError as error:
                yield str(error)


def _since_seen(audit: Audit, files: Iterable[str], wrong: Container[str]) -> Iterator[str]:
    """Yield heads, tries and entries of erasure logs that an earlier check saw and that are gone, or are
    others though nothing wrote them since. Those that it saw for the first time, or that were written since,
    it remembers. `wrong`: heads, and folders of tries or erasures, of which something was told: these are
    left as they were known.
    """
    known = {each.path: each for each in audit.index.seen() if audit.allows_part(each.path)}
    files = [path for path in files if path not in wrong and str(PurePosixPath(path).parent) not in wrong]
    there = {each.path: each for each in _read(audit, sorted(files))}
    altered = "it is another than it was, and nothing wrote it since"
    for path, before in known.items():
        now = there.get(path)
        if path in wrong or str(PurePosixPath(path).parent) in wrong:
            continue
        if now is None:
            yield f"{audit.store.uri(path)}: it is gone, and an earlier check saw it. {ON_PURPOSE}"
        elif now.sha256 != before.sha256 and (not _HEAD.fullmatch(path) or now.at <= before.at):
            yield f"{audit.store.uri(path)}: {altered}. {ON_PURPOSE}"
            del there[path]
    with audit.index.transaction():
        audit.index.see(there.values())


def _read(audit: Audit, paths: Sequence[str]) -> Iterator[SeenFile]:
    for first in range(0, len(paths), AT_ONCE):
        batch = paths[first : first + AT_ONCE]
        for path, content in zip(batch, audit.store.read_each(batch), strict=True):
            if content is not None:
                yield SeenFile(path, _written_at(content), hashlib.sha256(content).hexdigest())


def _written_at(content: bytes) -> str:
    """Return when a head or a try says it was written, ISO 8601; empty of what is none, which is told of
    it.
    """
    try:
        return str(loads(content)["at"])
    except MALFORMED:
        return ""


def _of_claims(audit: Audit, files: Iterable[str]) -> Iterator[str]:
    """Yield the newest claim on each artifact that stands, where it is none, or of a removal that nobody
    signed though signatures are asked for.
    """
    claims = (path for path in sorted(files) if _CLAIM.fullmatch(path))
    newest = list({path.rpartition("/")[0]: path for path in claims}.values())
    for first in range(0, len(newest), AT_ONCE):
        batch = newest[first : first + AT_ONCE]
        for path, content in zip(batch, audit.store.read_each(batch), strict=True):
            if content is not None and not _keeps(content):
                yield from _told(audit, _of_claim, *path.split("/", 1))


def _keeps(content: bytes) -> bool:
    """Say whether a claim keeps an artifact."""
    with suppress(*MALFORMED):
        return bool(loads(content)["claim"] == KEPT)
    return False


def _of_claim(audit: Audit, owner: str, name: str) -> tuple[str, ...]:
    """Check a claim on what stands; see `_of_claims`."""
    of = _CLAIM.fullmatch(f"{owner}/{name}")
    found = None if of is None else find_artifact(audit.store, Place(of["prefix"], of["stage"], of["key"]))
    if of is not None and found is not None and found.predicate["attempt"] == of["attempt"]:
        check_claim(audit.store, found)
    return ()


def _nobodys(audit: Audit, files: Iterable[str]) -> Iterator[str]:
    """Yield files under a key that neither its manifest lists nor anybody writes there. What is in the folder
    of an attempt is told of its artifact; attempts that nothing committed are what `store gc` removes.
    """
    generations = audit.index.places()
    for path in sorted(files):
        found = _UNDER_KEY.fullmatch(path)
        if found is None or found["stage"] in (*NO_STAGES, "digests") or _OF_KEY.fullmatch(found["rest"]):
            continue
        place = Place(found["prefix"], found["stage"], found["key"])
        manifests = (place.manifest_of(number) for number in range(1, generations.get(place, 1) + 1))
        if path not in manifests:
            yield f"{audit.store.uri(path)}: {NOBODYS}"


def _of_head(audit: Audit, prefix: str, name: str) -> Iterator[str]:
    """Check that a head points at an artifact of the digest that it says, which stands, or which retention
    removed.
    """
    stage = PurePosixPath(name).stem
    if read_head(audit.store, prefix, stage) is not None:
        return
    head = audit.store.read_json(f"{prefix}/{name}")
    found = generations(audit.store, Place(str(head["prefix"]), stage, str(head["key"])))
    made = (each if isinstance(each, Artifact) else each.artifact for each in found)
    if head["digest"] not in {each.digest for each in made}:
        yield f"{audit.store.uri(prefix)}/{name}: nothing stands where it points. {RESTORE}"


def _erasure_logs(audit: Audit) -> Iterator[str]:
    """Yield the folder of each erasure log that may be looked at."""
    folders = (erasures.folder_of(owner) for owner in erasures.owners_with_erasures(audit.store))
    yield from (folder for folder in folders if audit.allows_part(folder))


def _of_erasures(audit: Audit, folder: str, name: str) -> tuple[str, ...]:
    """Check that an erasure log can be read: its chain, its head, and who signed its entries."""
    erasures.read_erasures(audit.store, tenant_of(folder))
    return ()


def _of_tries(audit: Audit, prefix: str, name: str) -> tuple[str, ...]:
    """Check that records of tries can be read, and none is missing before another."""
    read_folder(audit.store, prefix, name)
    return ()


def _uncounted(audit: Audit, prefix: str, name: str) -> tuple[str, ...]:
    """Check that what weights were put to is among the tries of the variant."""
    if f"/{LINEAGE}/" not in name:
        refuse_uncounted(audit.store, prefix, PurePosixPath(name).name)
    return ()


def _of_code(audit: Audit, artifacts: Iterable[Indexed]) -> Iterator[str]:
    """Check that what is kept of the code that made them has its digest."""
    digests: dict[str, None] = {}
    for each in artifacts:
        try:
            digests[str(audit.artifact(each).predicate["code"]["sha256"])] = None
        except UserError:  # told of the artifact
            continue
        except MALFORMED as error:
            yield problem_of(error, audit.store.uri(each.place.manifest_of(each.generation)))
    for digest in digests:
        try:
            kept_code(audit.store, digest)
        except UserError as error:
            yield str(error)


def _of_log(audit: Audit, prefix: str, name: str, *, known: Sequence[LogEntry]) -> Iterator[str]:
    """Check a release log: its chain, what the index knows of it, or knew before it followed, and its
    exports.
    """
    log = read_log(audit.store, prefix)
    yield from (f"{said}. {WHO_WROTE_IT}" for said in uncounted_words(audit.store, prefix, log))
    yield from _of_known(audit, known, log_entries(prefix, log))
    manifests = defaultdict[str, set[str]](set)  # by digest
    for export in audit.index.of_stage(MODEL_EXPORT.name, prefix):
        manifests[export.digest].add(export.manifest)
    for number, entry in enumerate(log.entries, 1):
        where = audit.store.uri(entry_path(prefix, number))
        if entry.export not in manifests:
            yield f"{where}: the export {entry.export[:12]} is gone. {RESTORE}"
        elif entry.export_manifest not in (None, *manifests[entry.export]):
            said = f"the export {entry.export[:12]} has another manifest than at its release"
            yield f"{where}: {said}. {RESTORE}"


def _of_known(audit: Audit, known: Iterable[LogEntry], there: Sequence[LogEntry]) -> Iterator[str]:
    """Check that each known entry is in the log: a chain by itself does not tell that its end was
    replaced.
    """
    for entry in known:
        where = audit.store.uri(entry_path(entry.prefix, entry.number))
        found = there[entry.number - 1] if 0 < entry.number <= len(there) else None
        if found is None:
            yield f"{where}: this entry was taken out of this release log. {ON_PURPOSE}"
        elif found.sha256 != entry.sha256:
            yield f"{where}: this entry of a release log is another than it was. {ON_PURPOSE}"
        elif found != entry:
            yield str(index_error(audit, f"the index says otherwise of {where} than that file"))
