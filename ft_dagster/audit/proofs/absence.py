"""Lists what a record that nobody saw was compared with, and proves that it is in none of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ft_dagster.audit.answers import Absence, HeldAgainst, ModelName, RecordAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.artifact_records import HAVE_RECORDS
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.proofs.proofs import neighbours
from ft_dagster.audit.sought_record import SoughtRecord
from ft_dagster.errors import UserError
from ft_dagster.records.record_tree import TREE, TreeHead
from ft_dagster.stage_entries import FINE_TUNED_MODEL

OLDER = "older than record trees: held against its rows, by the index"
OTHER_ROOT = "the root of its record tree is not the one of its manifest"
ERASED = "a record was erased where it would be: nothing proves that it was another"


def held_against(
    audit: Audit, asked: SoughtRecord, say: Callable[[str], None] = lambda line: None
) -> HeldAgainst:
    """Return for each data set, corpus and mixture the two leaves between which the record would be, and
    which models were made of these. Reads every record tree: some 73 bytes and a microsecond a leaf.

    Raises UserError where a tree has the record: the index then does not tell of all that is there.
    """
    holders = [each for stage in HAVE_RECORDS for each in audit.allowed(audit.index.of_stage(stage))]
    models = audit.allowed(audit.index.of_stage(FINE_TUNED_MODEL.name))
    absences: list[Absence] = []
    unread: list[str] = []
    for number, holder in enumerate(holders, 1):
        say(f"{number:,} of {len(holders):,} data sets, corpora and mixtures")
        absences += _of_holder(audit, holder, asked, unread)
    names = tuple(ModelName(each.variant or "", each.digest) for each in models)
    return HeldAgainst(tuple(absences), names, tuple(unread))


def and_held(answer: RecordAnswer, held: HeldAgainst) -> RecordAnswer:
    """Correct an answer by which nobody saw the record: it no longer says so where a tree could not be
    read.
    """
    unread = dict.fromkeys((*answer.checked.unread, *held.unread))
    return replace(answer, checked=replace(answer.checked, unread=tuple(unread)))


def _of_holder(audit: Audit, holder: Indexed, asked: SoughtRecord, unread: list[str]) -> list[Absence]:
    """Return one absence for each identity that the record may have; one alone that says why, where nothing
    is proved. `unread`: takes why a tree could not be read.
    """
    named = (holder.variant, holder.place.stage, holder.digest, holder.records)
    try:
        artifact = audit.artifact(holder)
        head = TreeHead.of(artifact.figures, file=audit.store.uri(artifact.manifest_path))
        if head is None or not audit.stored.has(artifact, f"evidence/{TREE}"):
            return [Absence(*named, unproved=OLDER)]
        key = audit.keys(holder.tenant).of_id(head.key)
        if key is None:
            return [Absence(*named, unproved=f"the key {head.key} that orders its records is lost")]
        tree = audit.tree(artifact)
        identities = asked.known_in(head.identity)
        found = [tree.find(key.lookup(identity)) for identity in identities]
        if any(tree.is_beside_erased(place.start) for place in found):
            return [Absence(*named, unproved=ERASED)]
        leaves = [neighbours(tree, place.start) for place in found]
    except UserError as error:
        unread.append(str(error))
        return [Absence(*named, unproved=str(error))]
    if any(found):
        fix = "Run `ft-dagster audit index --again`, then ask again"
        raise UserError("this record tree has a record that the index does not know", file=tree.file, fix=fix)
    if tree.merkle.root.hex() != head.root:
        unread.append(f"{tree.file}: {OTHER_ROOT}")
        return [Absence(*named, unproved=OTHER_ROOT)]
    named = (*named[:3], len(tree))
    return [
        Absence(*named, head.root, head.key, identity.hex(), tuple(beside))
        for identity, beside in zip(identities, leaves, strict=True)
    ]
