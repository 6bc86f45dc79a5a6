"""Takes unsalted identities out of old record evidence, each file under an amendment.

What is killed in the middle leaves each file whole, with the old bytes or the new ones, and is finished by
the next call: the bytes follow from the file and the keys.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.audit.amending import write_over
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.artifact_records import HAVE_RECORDS
from ft_dagster.audit.index.follow import MALFORMED, problem_of
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS
from ft_dagster.records.record_keys import SHARED_OWNER, EvidenceKeys
from ft_dagster.records.record_tree import TREE, TreeHead
from ft_dagster.records.sealed_rows import has_identities, seal_rows
from ft_dagster.store import Artifact
from ft_dagster.store.amendments import IDENTITIES_REMOVED

NO_TREE = "{file}: older than record trees, so that nothing else would know its records: left as it is"
NO_KEY = "{file}: the key {key} that orders its tree is not here: left as it is. Restore it first"


@dataclass(frozen=True)
class Forgotten:
    """Says which files had identities. `files`: taken out of, or to be; `left`: why some are left as they
    are; `signed`: whether the amendments bear a signature.
    """

    files: tuple[str, ...]
    left: tuple[str, ...]
    signed: bool


@dataclass(frozen=True)
class _Due:
    artifact: Artifact
    name: str
    file: Path
    keys: EvidenceKeys


def forget_identities(
    audit: Audit, *, dry_run: bool, say: Callable[[str], None] = lambda line: None
) -> Forgotten:
    """Take the identities out of all files that have them and stand beside a tree whose key is here.
    `dry_run`: only name them.

    Raises UserError where amendments need a signature, and this process has no key for them.
    """
    left, files = list[str](), list[str]()
    for due in _due(audit, left):
        stored = f"{due.artifact.path}/{due.name}"
        files.append(audit.store.uri(stored))
        if not dry_run:
            say(files[-1])
            _forget(audit, due)
    signed = audit.store.trust is not None and audit.store.trust.signer is not None
    return Forgotten(tuple(files), tuple(left), signed)


def _due(audit: Audit, left: list[str]) -> Iterator[_Due]:
    shared = audit.keys(SHARED_OWNER).current
    for stage in HAVE_RECORDS:
        for indexed in audit.allowed(audit.index.of_stage(stage)):
            artifact = audit.artifact(indexed)
            for name in (f"evidence/{ORIGINS}", f"evidence/{DROPPED}"):
                if not audit.stored.has(artifact, name):
                    continue
                where = audit.store.uri(f"{artifact.path}/{name}")
                try:
                    file = audit.stored.file(artifact, name)
                    if not has_identities(file):
                        continue
                    head = TreeHead.of(artifact.figures, file=where)
                except MALFORMED as error:
                    left.append(problem_of(error, where))
                    continue
                if head is None or not audit.stored.has(artifact, f"evidence/{TREE}"):
                    left.append(NO_TREE.format(file=where))
                    continue
                own = audit.keys(indexed.tenant).of_id(head.key)
                if own is None:
                    left.append(NO_KEY.format(file=where, key=head.key))
                    continue
                yield _Due(artifact, name, file, EvidenceKeys(own, shared))


def _forget(audit: Audit, due: _Due) -> None:
    with tempfile.TemporaryDirectory(dir=audit.settings.work_folder) as folder:
        sealed = Path(folder) / Path(due.name).name
        seal_rows(due.file, sealed, due.keys)
        write_over(audit, due.artifact, due.name, sealed, IDENTITIES_REMOVED)
