"""Proves that a record is among those a model was trained on, or is not, by small files that a stranger
checks.

A file carries the leaf and its path to the root, the manifest of the mixture, which names the root, and the
manifest of the model, which names the mixture's by its sha256. Whoever knows the model's manifest by other
means (the release log, a signature) then knows that the record was in its mixture. A proof of absence carries
the two leaves between which the record would be, and shows that to who has the tenant's key.

A row has another identity where a source names its columns, format or system prompt, and as a document that
is JSON: the file says by which reading it got an identity. Of a row that is absent it shows that by each
reading of the model's sources, and as a document. Where a source transforms its rows nothing shows absence.

A record with an identity 2 is looked for by that and by identity 1, which older rows are known by. What shows
identity 1 present may be of another record, and the check says so; of one that is absent both are shown, but
in a tree from before identity 2, which can have identity 1 alone.

A record may stand in several rows of a mixture: `also` has those that were trained on beside the first, with
the leaf of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ft_dagster.audit.answers import ModelThatHas
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.artifact_records import STATES, times_of
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.proofs.proof_check import leads
from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE, SCHEMA_VERSION
from ft_dagster.audit.records import INHERITED, TRAINED, record
from ft_dagster.audit.sought_record import SoughtRecord
from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import RecordKey
from ft_dagster.records.record_tree import TREE, RecordTree, TreeHead
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TRAINING_MIXTURE
from ft_dagster.strict_json import loads

WHERE_IT_IS = "`ft-dagster audit record` says where it is"
LEARNED = (TRAINED, INHERITED)
MOST_ROWS = 1000  # of one record that a proof shows and counts, at some 2 kB each


def prove(audit: Audit, asked: SoughtRecord, weights: Indexed) -> dict[str, Any]:
    """Prove that a record is in what a model was trained on, or that it is not. Of a model that starts from
    the release of one that was trained on it, the proof of that one, with the manifests that lead there.

    Raises UserError for a model whose mixture is gone or is older than record trees, where it or a parent was
    trained on the record and no proof can be made of that, and where rows were transformed and none is it, or
    it may be a row in a further way.
    """
    exactly = asked.exactly
    if asked.alike and any(_is(one, weights) for one in record(audit, exactly).models if one.how in LEARNED):
        asked = exactly
    own = _proof(audit, asked, weights)
    if own.get("times") or (
        own["kind"] == PRESENCE and bytes.fromhex(own["identity"]) in asked.alike.values()
    ):
        return own
    learned = {(one.variant, one.weights) for one in record(audit, asked).models if one.how == TRAINED}
    if (weights.variant, weights.digest) in learned:
        equal = "a mixture that is equal to its own has it, which its manifest does not name"
        problem = f"it was trained on it, and nothing proves that: {equal}"
        raise UserError(problem, value=weights.digest[:12], fix=WHERE_IT_IS)
    for parent, through in audit.above(weights):
        if (parent.variant, parent.digest) in learned:
            return _inherited(audit, asked, parent, through)
    if asked.unsure and own["kind"] == ABSENCE:
        fix = "Give the row as JSON"
        raise UserError(f"nothing proves that it is absent: {asked.unsure[0]}", fix=fix)
    transformed = audit.transformed_for(weights) if asked.words and own["kind"] == ABSENCE else ()
    if transformed:
        problem = f"nothing proves that it is absent: {transformed[0][1]}"
        raise UserError(problem, fix="`ft-dagster audit record` says where that is")
    return own


def _is(model: ModelThatHas, weights: Indexed) -> bool:
    return (model.variant, model.weights) == (weights.variant, weights.digest)


def _inherited(
    audit: Audit, asked: SoughtRecord, parent: Indexed, through: list[Indexed]
) -> dict[str, object]:
    unproven = UserError(
        f"it starts from a release of {parent.variant}, which was trained on it, and nothing proves that",
        value=parent.digest[:12],
        fix=WHERE_IT_IS,
    )
    try:
        proof = _proof(audit, asked, parent)
    except UserError as error:
        raise unproven from error
    texts = [audit.manifest(each).decode() for each in through]
    predicates = [loads(text)["predicate"] for text in texts]
    if not proof.get("times") or not leads(predicates, [*texts, proof["manifests"][FINE_TUNED_MODEL.name]]):
        raise unproven
    return {**proof, "through": texts}


def _proof(audit: Audit, asked: SoughtRecord, weights: Indexed) -> dict[str, Any]:
    """Prove it by the model's own mixture."""
    mixture = audit.index.parent(weights, TRAINING_MIXTURE.name)
    if mixture is None:
        fix = "Restore it from a backup"
        raise UserError("the mixture of this model is gone", value=weights.digest[:12], fix=fix)
    tuned, mixed = audit.artifact(weights), audit.artifact(mixture)
    head = TreeHead.of(mixed.figures, file=audit.store.uri(mixed.manifest_path))
    if head is None or not audit.stored.has(mixed, f"evidence/{TREE}"):
        fix = "`audit record` answers by its rows; a proof needs a mixture that was made since"
        raise UserError("this model is older than record trees", value=weights.digest[:12], fix=fix)
    key = audit.keys(mixture.tenant).of_id(head.key)
    if key is None:
        fix = "Restore it from a backup (`ft-dagster audit key restore FILE`)"
        raise UserError(f"the key {head.key} that orders this mixture's records is lost", fix=fix)
    tree = audit.tree(mixed)
    common = {
        "schema_version": SCHEMA_VERSION,
        "tree": {"size": len(tree), "key": head.key, "root": head.root},
        "manifests": {
            name: audit.manifest(each).decode()
            for name, each in ((TRAINING_MIXTURE.name, mixture), (FINE_TUNED_MODEL.name, weights))
        },
    }
    places = _places(tree, key, asked.exactly) or _places(tree, key, asked)
    if places:
        times = times_of(audit.stored, tuned, mixed)
        return {**common, **_presence(tree, places, times.tolist(), asked)}
    first, *others = [_absence(tree, key, asked, identity) for identity in asked.known_in(head.identity)]
    return {**common, "kind": ABSENCE, **first, "read_otherwise": others}


def _places(tree: RecordTree, key: RecordKey, asked: SoughtRecord) -> dict[int, bytes]:
    """Return the leaves of rows that are the record, each with the identity by which it is."""
    found = {at: one for one in asked.identities for at in tree.find(key.lookup(one))}
    return {at: one for at, one in found.items() if not tree.dropped[at]}


def _presence(
    tree: RecordTree, places: Mapping[int, bytes], times: list[int], asked: SoughtRecord
) -> dict[str, object]:
    """Prove presence by the leaves whose rows were trained on, the most often first; by one that was not,
    where none was. `places`: leaf -> identity.
    """
    states = {at: tree.row(at)[1]["split"] for at in places}
    trained = {at: times[int(tree.rows[at])] for at, state in states.items() if state == "train"}
    several = sorted((at for at in trained if trained[at]), key=lambda at: (-trained[at], at))
    first, *others = several[:MOST_ROWS] or [min(places, key=lambda at: STATES.index(states[at]))]
    return {
        "kind": PRESENCE,
        **_row(tree, first, places[first], asked),
        "times": sum(trained.get(at, 0) for at in (first, *others)),
        "rows": max(1, len(several)),
        "also": [_row(tree, at, places[at], asked) for at in others],
    }


def _row(tree: RecordTree, at: int, identity: bytes, asked: SoughtRecord) -> dict[str, object]:
    """Return what a leaf is made of."""
    row, _ = tree.row(at)
    return {
        "identity": identity.hex(),
        "reading": asked.reading(identity),
        "salt": row.salt.hex(),
        "facts": row.facts,
        "leaves": [_leaf(tree, at)],
    }


def _absence(tree: RecordTree, key: RecordKey, asked: SoughtRecord, identity: bytes) -> dict[str, object]:
    """Prove the absence of one identity of the record."""
    place = tree.find(key.lookup(identity)).start
    return {
        "identity": identity.hex(),
        "reading": asked.reading(identity),
        "leaves": neighbours(tree, place),
    }


def neighbours(tree: RecordTree, place: int) -> list[dict[str, object]]:
    """Return the leaves on both sides of where a leaf would be put in at `place`: one at an end, none of an
    empty tree.
    """
    return [_leaf(tree, at) for at in (place - 1, place) if 0 <= at < len(tree)]


def _leaf(tree: RecordTree, at: int) -> dict[str, object]:
    row, _ = tree.row(at)
    return {
        "index": at,
        "lookup": tree.lookup(at).hex(),
        "record": row.record.hex(),
        "facts_sha256": hashlib.sha256(row.salt + row.facts.encode()).hexdigest(),
        "path": [sibling.hex() for sibling in tree.merkle.path(at)],
    }
