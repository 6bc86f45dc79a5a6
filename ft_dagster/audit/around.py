"""What stands around artifacts, and is none: release logs, heads, tries, the code that is kept of them."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from ft_dagster.audit.desk import EXPORT, Audit, index_error
from ft_dagster.audit.follow import MALFORMED, log_entries, problem_of, tenant_prefixes
from ft_dagster.audit.index import Indexed, LogEntry, tenant_of
from ft_dagster.audit.kept_code import unpack_code
from ft_dagster.errors import UserError
from ft_dagster.lineage.log import entry_path, read_log
from ft_dagster.lineage.tries import tries
from ft_dagster.store import Artifact, Place, read_head
from ft_dagster.store.artifacts import generations
from ft_dagster.store.contents import contents_of

RESTORE = "Restore it from a backup"
ON_PURPOSE = f"{RESTORE}; if a backup was restored on purpose, `ft-dagster audit index --again`"
HEADS = "heads"
Check = Callable[[Audit, str, str], Iterable[str]]


def problems_around(audit: Audit, artifacts: Iterable[Indexed]) -> Iterator[str]:
    """What does not hold of it, one line each. `artifacts`: of which the code is looked at that made them."""
    known = defaultdict[str, list[LogEntry]](list)  # entries of release logs, by the part of the store
    for entry in (*audit.index.gone_releases(), *audit.index.releases()):
        known[entry.prefix].append(entry)
    for prefix in sorted({*tenant_prefixes(audit.store), *known}):
        if audit.tenant in (None, tenant_of(prefix)):
            yield from _told(audit, partial(_of_log, known=known[prefix]), prefix, "releases")
            for weights in audit.store.names(f"{prefix}/tries"):
                yield from _told(audit, _of_tries, prefix, f"tries/{weights}")
    for head in _heads(audit):
        part = head.parent if head.name == HEADS else head.parent.parent
        yield from _told(audit, _of_head, str(part), str(head.relative_to(part)))
    yield from _of_code(audit, artifacts)


def _told(audit: Audit, check: Check, prefix: str, name: str) -> list[str]:
    """What a check says of a file or a folder in a variant's part of the store, or why it cannot be read."""
    try:
        return list(check(audit, prefix, name))
    except UserError as error:
        return [str(error)]
    except MALFORMED as error:
        return [problem_of(error, audit.store.uri(f"{prefix}/{name}"))]


def _heads(audit: Audit) -> list[PurePosixPath]:
    """Every head that who asks may see, of variants, their experiments and corpora; and what stands in the
    place of a folder of heads.
    """
    records = (PurePosixPath(file.path) for file in contents_of(audit.store, stages=()).records)
    heads = (path for path in records if HEADS in (path.name, path.parent.name) and path.name[0] != ".")
    return sorted(path for path in heads if audit.allows_part(str(path)))


def _of_head(audit: Audit, prefix: str, name: str) -> Iterator[str]:
    """It points at an artifact of the digest that it says, which stands, or which retention removed."""
    stage = PurePosixPath(name).stem
    if read_head(audit.store, prefix, stage) is not None:
        return
    head = audit.store.read_json(f"{prefix}/{name}")
    found = generations(audit.store, Place(str(head["prefix"]), stage, str(head["key"])))
    made = (each if isinstance(each, Artifact) else each.artifact for each in found)
    if head["digest"] not in {each.digest for each in made}:
        yield f"{audit.store.uri(prefix)}/{name}: nothing stands where it points. {RESTORE}"


def _of_tries(audit: Audit, prefix: str, name: str) -> tuple[str, ...]:
    """They can be read, and none is missing before another."""
    tries(audit.store, prefix, PurePosixPath(name).name)
    return ()


def _of_code(audit: Audit, artifacts: Iterable[Indexed]) -> Iterator[str]:
    """What is kept of the code that made them has its digest."""
    digests: dict[str, None] = {}
    for each in artifacts:
        try:
            digests[str(audit.artifact(each).predicate["code"]["sha256"])] = None
        except UserError:  # told of the artifact
            continue
        except MALFORMED as error:
            yield problem_of(error, audit.store.uri(each.place.manifest_of(each.generation)))
    for digest in digests:
        with tempfile.TemporaryDirectory() as folder:
            try:
                unpack_code(audit.store, digest, Path(folder))
            except UserError as error:
                yield str(error)


def _of_log(audit: Audit, prefix: str, name: str, *, known: Sequence[LogEntry]) -> Iterator[str]:
    """A release log: its chain, what the index knows of it, or knew before it followed, and its exports."""
    log = read_log(audit.store, prefix)
    yield from _of_known(audit, known, log_entries(prefix, log))
    manifests = defaultdict[str, set[str]](set)  # by digest
    for export in audit.index.of_stage(EXPORT, prefix):
        manifests[export.digest].add(export.manifest)
    for number, entry in enumerate(log.entries, 1):
        where = audit.store.uri(entry_path(prefix, number))
        if entry.export not in manifests:
            yield f"{where}: the export {entry.export[:12]} is gone. {RESTORE}"
        elif entry.export_manifest not in (None, *manifests[entry.export]):
            said = f"the export {entry.export[:12]} has another manifest than at its release"
            yield f"{where}: {said}. {RESTORE}"


def _of_known(audit: Audit, known: Iterable[LogEntry], there: Sequence[LogEntry]) -> Iterator[str]:
    """Each known entry is in the log: a chain by itself does not tell that its end was replaced."""
    for entry in known:
        where = audit.store.uri(entry_path(entry.prefix, entry.number))
        found = there[entry.number - 1] if 0 < entry.number <= len(there) else None
        if found is None:
            yield f"{where}: this entry was taken out of this release log. {ON_PURPOSE}"
        elif found.sha256 != entry.sha256:
            yield f"{where}: this entry of a release log is another than it was. {ON_PURPOSE}"
        elif found != entry:
            yield str(index_error(audit, f"the index says otherwise of {where} than that file"))
