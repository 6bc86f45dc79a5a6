"""What stands around artifacts, and is none: release logs, heads, tries, the code that is kept of them."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from ft_dagster.audit.desk import EXPORT, Audit
from ft_dagster.audit.follow import MALFORMED, problem_of, tenant_prefixes
from ft_dagster.audit.index import Indexed, tenant_of
from ft_dagster.audit.kept_code import unpack_code
from ft_dagster.errors import UserError
from ft_dagster.lineage.log import read_log
from ft_dagster.lineage.tries import tries
from ft_dagster.store import Place, read_head
from ft_dagster.store.artifacts import generations

RESTORE = "Restore it from a backup"
Check = Callable[[Audit, str, str], Iterable[str]]


def problems_around(audit: Audit, artifacts: Iterable[Indexed]) -> Iterator[str]:
    """What does not hold of it, one line each. `artifacts`: of which the code is looked at that made them."""
    for prefix in tenant_prefixes(audit.store):
        if audit.tenant in (None, tenant_of(prefix)):
            yield from _told(audit, _of_log, prefix, "releases")
            for name in audit.store.names(f"{prefix}/heads"):
                yield from _told(audit, _of_head, prefix, f"heads/{name}")
            for weights in audit.store.names(f"{prefix}/tries"):
                yield from _told(audit, _of_tries, prefix, f"tries/{weights}")
    yield from _of_code(audit, artifacts)


def _told(audit: Audit, check: Check, prefix: str, name: str) -> list[str]:
    """What a check says of a file or a folder in a variant's part of the store, or why it cannot be read."""
    try:
        return list(check(audit, prefix, name))
    except MALFORMED as error:
        return [problem_of(error, audit.store.uri(f"{prefix}/{name}"))]


def _of_head(audit: Audit, prefix: str, name: str) -> Iterator[str]:
    """It points at an artifact of the digest that it says, which stands, or which retention removed."""
    stage = PurePosixPath(name).stem
    if read_head(audit.store, prefix, stage) is not None:
        return
    head = audit.store.read_json(f"{prefix}/{name}")
    if not any(generations(audit.store, Place(str(head["prefix"]), stage, str(head["key"])))):
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


def _of_log(audit: Audit, prefix: str, name: str) -> Iterator[str]:
    """A release log: its chain, its exports."""
    entries = read_log(audit.store, prefix).entries
    if len(audit.log.get(prefix, [])) > len(entries):
        yield f"{audit.store.uri(prefix)}/{name}: entries were taken out of this release log. {RESTORE}"
    manifests = defaultdict[str, set[str]](set)  # by digest
    for export in audit.index.of_stage(EXPORT, prefix):
        manifests[export.digest].add(export.manifest)
    for number, entry in enumerate(entries, 1):
        where = f"{audit.store.uri(prefix)}/{name}/{number:06d}.json"
        if entry.export not in manifests:
            yield f"{where}: the export {entry.export[:12]} is gone. {RESTORE}"
        elif entry.export_manifest not in (None, *manifests[entry.export]):
            said = f"the export {entry.export[:12]} has another manifest than at its release"
            yield f"{where}: {said}. {RESTORE}"
