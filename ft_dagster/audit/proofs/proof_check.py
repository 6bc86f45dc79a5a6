"""Checks a proof by its own bytes; with the record, that it is of this one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE, all_shown, read_proof
from ft_dagster.audit.records import ALIKE
from ft_dagster.audit.sought_lines import COLUMNS, is_columns
from ft_dagster.audit.sought_record import PLAIN, READ_BY, WHOLE, SoughtRecord
from ft_dagster.data.rows.content import NORMALIZATION
from ft_dagster.errors import UserError
from ft_dagster.provenance.manifest import predicate_of
from ft_dagster.provenance.merkle import EMPTY, leaf_hash, root_of
from ft_dagster.records.record_keys import RecordKey
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.report.figures import counted
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, MODEL_EXPORT, TRAINING_MIXTURE
from ft_dagster.strict_json import dumps, loads


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
    return [
        {name: each[name] for name in READ_BY if name in each}
        | ({COLUMNS: each[COLUMNS]} if is_columns(each.get(COLUMNS)) else {})
        for each in given
    ]


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
    reading.need(leads(said, [*through, model.decode()]), "the model does not start from the other's release")
    reading.steps.append(f"the model starts from a release of {tuned['variant']}, which had the record")
    return said[0], hashlib.sha256(through[0].encode()).hexdigest()


def leads(predicates: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> bool:
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


def _hash(leaf: Mapping[str, Any]) -> bytes:
    return leaf_hash(b"".join(bytes.fromhex(leaf[name]) for name in ("lookup", "record", "facts_sha256")))
