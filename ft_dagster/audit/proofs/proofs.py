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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.audit.answers import ModelThatHas
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.artifact_records import STATES, times_of
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE, SCHEMA_VERSION, all_shown, read_proof
from ft_dagster.audit.records import ALIKE, INHERITED, TRAINED, record
from ft_dagster.audit.sought_record import PLAIN, READ_BY, WHOLE, SoughtRecord
from ft_dagster.data.rows.content import NORMALIZATION
from ft_dagster.errors import UserError
from ft_dagster.provenance.manifest import predicate_of
from ft_dagster.records.merkle import EMPTY, leaf_hash, root_of
from ft_dagster.records.record_keys import RecordKey
from ft_dagster.records.record_tree import FIGURES, TREE, RecordTree, TreeHead
from ft_dagster.report.figures import counted
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, MODEL_EXPORT, TRAINING_MIXTURE
from ft_dagster.strict_json import dumps, loads

WHERE_IT_IS = "`ft-dagster audit record` says where it is"
LEARNED = (TRAINED, INHERITED)
MOST_ROWS = 1000  # of one record that a proof shows and counts, at some 2 kB each


@dataclass(frozen=True)
class ProofChecked:
    """Says what a proof shows. `steps`: what was checked, in words. `model`: digest of the weights,
    `manifest`: sha256 of their manifest, which is to be compared with another source. `facts`: of the record.
    `unchecked`: what was not. `shown`: False of an absence that was checked without the tenant's key, for any
    two neighbours would do.
    """

    kind: str
    identity: str
    variant: str
    model: str
    manifest: str
    facts: Mapping[str, Any]
    steps: tuple[str, ...]
    unchecked: tuple[str, ...]
    shown: bool = True


def prove(audit: Audit, asked: SoughtRecord, weights: Indexed) -> dict[str, Any]:
    """Prove that a record is in what a model was trained on, or that it is not. Of a model that starts from
    the release of one that was trained on it, the proof of that one, with the manifests that lead there.

    Raises UserError for a model whose mixture is gone or is older than record trees, where it or a parent was
    trained on the record and no proof can be made of that, and where rows were transformed and none is it.
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
    leads = _leads(
        [loads(text)["predicate"] for text in texts], [*texts, proof["manifests"][FINE_TUNED_MODEL.name]]
    )
    if not proof.get("times") or not leads:
        raise unproven
    return {**proof, "through": texts}


def _leads(predicates: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> bool:
    """Say whether each manifest names the next by its sha256: a model its base, a base the export that it is
    of, an export its weights. `texts`: one more than `predicates`.
    """
    above = {
        FINE_TUNED_MODEL.name: BASE_MODEL.name,
        BASE_MODEL.name: MODEL_EXPORT.name,
        MODEL_EXPORT.name: FINE_TUNED_MODEL.name,
    }
    names = [said.get("input_manifests", {}).get(above[said["stage"]]) for said in predicates]
    return names == [hashlib.sha256(text.encode()).hexdigest() for text in texts[1:]]


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


def check(file: Path, asked: SoughtRecord | None = None, key: RecordKey | None = None) -> ProofChecked:
    """Check a proof by its own bytes; with the record, that it is of this one; of absence, with the tenant's
    key.

    Raises UserError where it does not hold; see `ProofChecked.shown` of an absence without a key.
    """
    proof = read_proof(file)
    try:
        return _checked(proof, file, asked, key)
    except (KeyError, TypeError, ValueError, AttributeError):  # of what a manifest in it says, or facts
        raise UserError("not a proof", file=file, fix="Name what `ft-dagster audit prove` wrote") from None


def tree_key(file: Path) -> str:
    """Return the id of the key that orders the tree of a proof. Raises UserError for a file that is none."""
    return str(read_proof(file)["tree"]["key"])


def proof_readings(file: Path) -> list[Mapping[str, Any]]:
    """Return the readings of a row by which the identities of a proof came. Raises UserError for a file that
    is none.
    """
    given = [each.get("reading", PLAIN) for each in all_shown(read_proof(file))]
    return [{name: each[name] for name in READ_BY if name in each} for each in given]


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


class _Reading:
    """Is a proof while it is checked: `need` what holds, and note what was checked and what could not be."""

    def __init__(self, proof: Mapping[str, Any], file: Path) -> None:
        self.proof, self._file = proof, file
        self.identity = bytes.fromhex(proof["identity"])
        self.steps: list[str] = []
        self.unchecked: list[str] = []

    def need(self, holds: bool, problem: str) -> None:
        if not holds:
            fix = "Ask for it again, and trust none that does not hold"
            raise UserError(f"this proof does not hold: {problem}", file=self._file, fix=fix)


def _checked(
    proof: Mapping[str, Any], file: Path, asked: SoughtRecord | None, key: RecordKey | None
) -> ProofChecked:
    reading = _Reading(proof, file)
    if asked is None:
        reading.unchecked.append("that the record is the one you mean: give it")
    else:
        _check_identity(reading, asked)
    _check_paths(reading)
    facts: Mapping[str, Any] = {}
    if proof["kind"] == PRESENCE:
        facts = _check_presence(reading)
    else:
        for each in all_shown(proof):
            _check_absence(reading, each, key)
        _note_absence(reading, key)
    tuned, manifest = _check_manifests(reading, file)
    return ProofChecked(
        proof["kind"], proof["identity"], str(tuned["variant"]), tuned["digest"], manifest,
        facts, tuple(reading.steps), tuple(reading.unchecked), proof["kind"] == PRESENCE or key is not None,
    )  # fmt: skip


def _check_identity(reading: _Reading, asked: SoughtRecord) -> None:
    """Check that the record that was given is the one of the proof; where it is absent, however it may be
    read.
    """
    there = {bytes.fromhex(one["identity"]) for one in all_shown(reading.proof)}
    if reading.proof["kind"] == ABSENCE:
        reading.need(there >= _wanted(reading, asked), "it is of another record")
    else:
        otherwise = there - set(asked.identities)
        reading.need(len(otherwise) < len(there), "it is of another record")
        reading.need(not otherwise or not asked.words, "it is of another record")
        if there <= asked.alike.keys():
            said = f"that it is this very record: identity 1, which the proof is by, does not tell {ALIKE}"
            reading.unchecked.append(said)
        if otherwise:
            reading.unchecked.append("that rows of other identities are the record, read otherwise: give it")
    for identity in asked.identities:
        if identity in there:
            how = asked.reading(identity)
            read = f", read as {dumps(how, ensure_ascii=False)}," if how else ""
            number = " 1" if identity in asked.alike else " 2" if identity in asked.alike.values() else ""
            reading.steps.append(f"the record you gave{read} has the identity{number} of the proof")


def _wanted(reading: _Reading, asked: SoughtRecord) -> set[bytes]:
    """Return what a proof of absence is to show: of a row, before version 2, not that it is no document; by
    identity 2 only where the tree may have that.
    """
    wanted = asked.known_in(_form_of(reading))
    rows = {one for one in wanted if asked.reading(one) != WHOLE}
    if reading.proof["schema_version"] >= 2 or not rows:
        return set(wanted)
    if len(rows) < len(wanted):
        reading.unchecked.append("that no document is this very text: proofs of before version 2 do not say")
    return rows


def _form_of(reading: _Reading) -> int:
    """Return the newest form of identity in the tree, as the mixture's manifest says."""
    manifest = loads(reading.proof["manifests"][TRAINING_MIXTURE.name], once=True)
    return int(manifest["predicate"]["figures"][FIGURES].get("identity", NORMALIZATION))


def _check_paths(reading: _Reading) -> None:
    tree = reading.proof["tree"]
    for leaf in (leaf for each in all_shown(reading.proof) for leaf in each["leaves"]):
        path = [bytes.fromhex(sibling) for sibling in leaf["path"]]
        found = root_of(_hash(leaf), leaf["index"], tree["size"], path)
        reading.need(found is not None and found.hex() == tree["root"], "a leaf is not under the root")
    reading.steps.append("the path of each leaf leads to the root")


def _check_presence(reading: _Reading) -> Mapping[str, Any]:
    """Check that the record is there; return the facts of the first of its rows."""
    proof, rows = reading.proof, all_shown(reading.proof)
    facts, *others = [_check_row(reading, row) for row in rows]
    places = {row["leaves"][0]["index"] for row in rows}
    reading.need(len(places) == len(rows), "it shows one leaf twice")
    splits = {other["split"] for other in (facts, *others)}
    reading.need(not others or splits == {"train"}, "a row was not trained on")
    of = f", of each of {len(rows):,} rows" if others else ""
    reading.steps.append(f"the record and its salt make the leaf, and the facts are the leaf's{of}")
    left = proof.get("rows", len(rows)) - len(rows)
    if left > 0:
        reading.unchecked.append(f"what it was trained on in {counted(left, 'further row')}")
    if facts["split"] == "train":
        times = counted(proof["times"], "time")
        said = f"that it was trained on {times}: the ledger beside the model says so"
        reading.unchecked.append(said)
        reading.unchecked.append("that all of it was trained on: what is longer than an example is cut")
    return facts


def _check_row(reading: _Reading, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check one row; return its facts."""
    [leaf] = row["leaves"]
    salt, identity = (bytes.fromhex(row[name]) for name in ("salt", "identity"))
    record = hashlib.sha256(salt + identity).hexdigest()
    reading.need(record == leaf["record"], "the leaf is of another record")
    said = hashlib.sha256(salt + row["facts"].encode()).hexdigest()
    reading.need(said == leaf["facts_sha256"], "the facts are not those of the leaf")
    facts: Mapping[str, Any] = loads(row["facts"])
    return facts


def _check_absence(reading: _Reading, one: Mapping[str, Any], key: RecordKey | None) -> None:
    """Check that two leaves stand side by side, and by the key that the record is between them."""
    leaves, tree = one["leaves"], reading.proof["tree"]
    places, size = [leaf["index"] for leaf in leaves], tree["size"]
    at_end = len(places) == 1 and places[0] in (0, size - 1)
    beside = len(places) == 2 and places[1] == places[0] + 1
    empty = not places and size == 0 and tree["root"] == EMPTY.hex()
    reading.need(at_end or beside or empty, "its leaves are not side by side")
    if key is None:
        return
    reading.need(key.id == tree["key"], "the key is another than the tree's")
    lookup = key.lookup(bytes.fromhex(one["identity"]))
    others = [bytes.fromhex(leaf["lookup"]) for leaf in leaves]
    between = [other < lookup for other in others] == [True, False] and lookup not in others
    before = at_end and places[0] == 0 and lookup < others[0]
    after = at_end and places[0] == size - 1 and others[0] < lookup
    reading.need(between or before or after or empty, "the record would be elsewhere, or is there")


def _note_absence(reading: _Reading, key: RecordKey | None) -> None:
    if key is None:
        reading.unchecked.append("that the record would be between these leaves: that needs the tenant's key")
    else:
        said = "by the key it would be between the leaves, which are side by side: it is not there"
        reading.steps.append(said)
    said = "that the sources of the model's data read a row in no further way, and transform none"
    reading.unchecked.append(said)
    reading.unchecked.append("that no mixture that came out equal to the model's own has it")
    reading.unchecked.append("what the base that the model starts from was trained on")


def _check_manifests(reading: _Reading, file: Path) -> tuple[Mapping[str, Any], str]:
    """Check the manifests; return what the model's says, and its sha256."""
    tree = reading.proof["tree"]
    mixture, model = (
        reading.proof["manifests"][name].encode() for name in (TRAINING_MIXTURE.name, FINE_TUNED_MODEL.name)
    )
    made, tuned = (predicate_of(loads(content, once=True), file) for content in (mixture, model))
    head = made["figures"][FIGURES]
    same = (head["root"], head["size"], head["key"]) == (tree["root"], tree["size"], tree["key"])
    reading.need(same, "the mixture has another tree")
    reading.need(
        (made["stage"], tuned["stage"]) == (TRAINING_MIXTURE.name, FINE_TUNED_MODEL.name),
        "a manifest is of another stage",
    )
    named = tuned["input_manifests"][TRAINING_MIXTURE.name]
    reading.need(named == hashlib.sha256(mixture).hexdigest(), "the model was trained on another mixture")
    reading.steps.append("the mixture's manifest names the root, and the model's manifest that manifest")
    reading.unchecked.append(
        "that the model's manifest is genuine: compare its sha256 with a source of yours"
    )
    return _check_through(reading, file, tuned, model)


def _check_through(
    reading: _Reading, file: Path, tuned: Mapping[str, Any], model: bytes
) -> tuple[Mapping[str, Any], str]:
    """Check, in a proof by a parent, the manifests from the model that was asked about down to it; return
    what the first of them says, and its sha256.
    """
    through = reading.proof.get("through", [])
    if not through:
        return tuned, hashlib.sha256(model).hexdigest()
    said = [predicate_of(loads(text, once=True), file) for text in through]
    reading.need(said[0]["stage"] == FINE_TUNED_MODEL.name, "it begins with no model")
    reading.need(
        _leads(said, [*through, model.decode()]), "the model does not start from the other's release"
    )
    reading.steps.append(f"the model starts from a release of {tuned['variant']}, which had the record")
    return said[0], hashlib.sha256(through[0].encode()).hexdigest()


def _hash(leaf: Mapping[str, Any]) -> bytes:
    return leaf_hash(b"".join(bytes.fromhex(leaf[name]) for name in ("lookup", "record", "facts_sha256")))
