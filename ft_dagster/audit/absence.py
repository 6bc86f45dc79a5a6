"""What a record that nobody saw was held against, and that it is in none of it."""

from __future__ import annotations

from collections.abc import Callable

from ft_dagster.audit.answers import Absence, HeldAgainst, ModelName
from ft_dagster.audit.asked import AskedRecord
from ft_dagster.audit.desk import Audit
from ft_dagster.audit.index import Indexed
from ft_dagster.audit.members import HAVE_RECORDS, MODEL
from ft_dagster.audit.proofs import neighbours
from ft_dagster.data.record_tree import TREE, TreeHead
from ft_dagster.errors import UserError

OLDER = "older than record trees: held against its rows, by the index"


def held_against(
    audit: Audit, asked: AskedRecord, say: Callable[[str], None] = lambda line: None
) -> HeldAgainst:
    """Of each data set, corpus and mixture the two leaves between which the record would be, and which models
    were made of these. Reads every record tree: some 73 bytes and a microsecond a leaf.

    Raises UserError where a tree has the record: the index then does not tell of all that is there.
    """
    holders = [each for stage in HAVE_RECORDS for each in audit.allowed(audit.index.of_stage(stage))]
    models = audit.allowed(audit.index.of_stage(MODEL))
    absences: list[Absence] = []
    for number, holder in enumerate(holders, 1):
        say(f"{number:,} of {len(holders):,} data sets, corpora and mixtures")
        absences += _of_holder(audit, holder, asked)
    return HeldAgainst(
        tuple(absences),
        tuple(ModelName(each.variant or "", each.digest) for each in models),
    )


def _of_holder(audit: Audit, holder: Indexed, asked: AskedRecord) -> list[Absence]:
    """One for each identity that the record may have; one alone that says why, where nothing is proved."""
    named = (holder.variant, holder.place.stage, holder.digest, holder.records)
    try:
        artifact = audit.artifact(holder)
        head = TreeHead.of(artifact.figures)
        if head is None or not audit.shelf.has(artifact, f"evidence/{TREE}"):
            return [Absence(*named, unproved=OLDER)]
        key = audit.keys(holder.tenant).of_id(head.key)
        if key is None:
            return [Absence(*named, unproved=f"the key {head.key} that orders its records is lost")]
        tree = audit.tree(holder, artifact)
        found = [tree.find(key.lookup(identity)) for identity in asked.identities]
        leaves = [neighbours(audit, tree, place.start) for place in found]
    except UserError as error:
        return [Absence(*named, unproved=str(error))]
    if any(found):
        fix = "Run `ft-dagster audit index --again`, then ask again"
        raise UserError("this record tree has a record that the index does not know", file=tree.file, fix=fix)
    if tree.merkle.root.hex() != head.root:
        return [Absence(*named, unproved="the root of its record tree is not the one of its manifest")]
    named = (*named[:3], len(tree))
    return [
        Absence(*named, head.root, head.key, identity.hex(), tuple(beside))
        for identity, beside in zip(asked.identities, leaves, strict=True)
    ]
