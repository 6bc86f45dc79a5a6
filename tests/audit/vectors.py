"""Makes examples/proof_vectors.json: texts in their forms, trees, and proofs with what is said of each.

`python -m tests.audit.vectors` writes it; a test holds that it is current.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_dagster.audit.proofs.proof_form import PRESENCE, SCHEMA_VERSION
from ft_dagster.data.rows.content import (
    EXACT,
    exact_text,
    identity_of,
    json_in,
    loses,
    normal_text,
)
from ft_dagster.provenance.manifest import PREDICATE
from ft_dagster.provenance.manifest import SCHEMA_VERSION as MANIFEST_VERSION
from ft_dagster.provenance.merkle import MerkleTree, leaf_hash
from ft_dagster.records.record_keys import RecordKey
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TRAINING_MIXTURE

FILE = Path(__file__).resolve().parents[2] / "examples" / "proof_vectors.json"
KEY = RecordKey(bytes(range(32)), "2026-01-01")
TEXTS = [
    "", " \t a\n b\u00a0 ", "ABC", "Stra\u00dfe STRASSE \u1e9e", "\ufb01n", "\uff21\uff22",
    "I\u0130\u0131i", "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "10\u2076 106", "\u00bd",
    "\u2460\u2474", "5\u33a1", "\u211d", "e\u0301 \u00e9", "so\u00adft zero\u200bwidth",
    "\x00a\x1fb\x7fc\x85d", "\u13a0\uab70", "\u1e9b\u0323", "\u0345", "\U0001d400x", "\u2026\u2116\u2163",
    "2\u2488", "\u3000\u2028x", "\ufeffa\ufffa", "\U0001f600\ufe0f",
]  # fmt: skip
CALL = {"name": "weather", "arguments": {"\uff23ity": "\u0130zmir", "days": 3}}
RECORDS: dict[str, list[Any]] = {
    "a text": ["text", [["text", "The balcony is south."]]],
    "a question and its answer": ["prompt_completion", [["prompt", "2+2?"], ["completion", " 4 "]]],
    "a raised figure": ["text", [["text", "10\u2076 cells, Stra\u00dfe \u00bd"]]],
    "a turn that says more": [
        "messages",
        [
            ["user", "Weather in \u0130zmir?"],
            ["assistant", "", {"tool_calls": [CALL]}],
            ["tool", "\u201csunny\u201d", {"tool_call_id": "1", "name": "weather"}],
            ["assistant", "Sunny.", {"train": False, "reasoning_content": "10\u2076\n\"quoted\""}],
        ],
        [{"type": "function", "function": {"name": "weather", "\U0001d400": None, "\uffe0": [True, -5]}}],
    ],
}  # fmt: skip


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def as_json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def identities(record: list[Any]) -> list[bytes]:
    """Identity 1 of a record, and identity 2 where it has one."""
    kind, parts, *tools = record
    one = identity_of(kind, [(role, normal_text(text)) for role, text, *_ in parts])
    said = [
        (role, exact_text(text), *(json_in(exact_text, as_json(each)) for each in more))
        for role, text, *more in parts
    ]
    [called] = [json_in(exact_text, as_json(each)) for each in tools] or [""]
    two = identity_of(kind, said, called, EXACT)
    has_two = tools or any(len(part) > 2 or loses(part[1]) for part in parts)
    return [one, two] if has_two else [one]


def facts_of(place: int) -> str:
    return as_json({"file": "rows.jsonl", "line": place + 1, "split": "train"})


def tree_of(found: Sequence[bytes]) -> tuple[list[dict[str, Any]], MerkleTree, list[bytes]]:
    """The rows of a mixture with these identities, by their lookups, their tree, and their hashes."""
    rows = []
    for place, (lookup, identity) in enumerate(sorted(zip(KEY.lookups(found), found, strict=True))):
        salt, facts = hashlib.sha256(b"salt %d" % place).digest()[:16], facts_of(place)
        leaf = {
            "lookup": lookup.hex(),
            "record": sha(salt + identity),
            "facts_sha256": sha(salt + facts.encode()),
        }
        rows.append({"identity": identity.hex(), "salt": salt.hex(), "facts": facts, "leaves": [leaf]})
    hashes = [
        leaf_hash(b"".join(map(bytes.fromhex, row["leaves"][0].values())))  # type: ignore[attr-defined]
        for row in rows
    ]
    return rows, MerkleTree(b"".join(hashes)), hashes


def manifest(stage: str, **more: Any) -> str:
    predicate = {"schema_version": MANIFEST_VERSION, "stage": stage, "variant": "acme.places", **more}
    return as_json({"predicateType": PREDICATE, "predicate": predicate})


def proof_of(record: list[Any], others: int, *, by: int = -1, twice: bool = False) -> dict[str, Any]:
    """A proof of a record among others. `by`: which of its identities. `twice`: it stands in two rows."""
    identity = identities(record)[by]
    found = [identity, *([identity] if twice else [])]
    found += [hashlib.sha256(b"other %d" % number).digest() for number in range(others)]
    rows, tree, _ = tree_of(found)
    for place, row in enumerate(rows):
        path = [sibling.hex() for sibling in tree.path(place)]
        row["leaves"] = [{"index": place, **row["leaves"][0], "path": path}]
    head = {"size": len(rows), "key": KEY.id, "root": tree.root.hex()}
    mixture = manifest(
        TRAINING_MIXTURE.name, digest=sha(b"mixture"), figures={"records": {**head, "identity": EXACT}}
    )
    model = manifest(
        FINE_TUNED_MODEL.name,
        digest=sha(b"model"),
        input_manifests={TRAINING_MIXTURE.name: sha(mixture.encode())},
    )
    first, *also = [row for row in rows if row["identity"] == identity.hex()]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": PRESENCE,
        **first,
        "times": 1 + len(also),
        "rows": 1 + len(also),
        "also": also,
        "tree": head,
        "manifests": {TRAINING_MIXTURE.name: mixture, FINE_TUNED_MODEL.name: model},
    }


def vectors() -> dict[str, Any]:
    numbered = [hashlib.sha256(b"leaf %d" % number).digest() for number in range(8)]
    proofs = [
        {"about": about, "record": record, "proof": proof_of(record, others)}
        for others, (about, record) in zip((0, 4, 6, 9), RECORDS.items(), strict=True)
    ]
    [_, _, raised, _] = RECORDS.values()
    proofs.append(
        {"about": "identity 1 of a record that has two", "record": raised, "proof": proof_of(raised, 3, by=0)}
    )
    proofs.append({"about": "two rows", "record": raised, "proof": proof_of(raised, 5, twice=True)})
    return {
        "texts": [{"text": text, "normal": normal_text(text), "exact": exact_text(text)} for text in TEXTS],
        "records": [
            {"record": record, "identities": [each.hex() for each in identities(record)]}
            for record in RECORDS.values()
        ],
        "key": {
            "secret": KEY.secret.hex(),
            "id": KEY.id,
            "of": numbered[0].hex(),
            "lookup": KEY.lookup(numbered[0]).hex(),
        },
        "trees": [
            {
                "leaves": [leaf_hash(each).hex() for each in numbered[:size]],
                "root": MerkleTree(b"".join(map(leaf_hash, numbered[:size]))).root.hex(),
            }
            for size in range(9)
        ],
        "proofs": proofs,
    }


def written() -> str:
    return json.dumps(vectors(), ensure_ascii=True, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(written(), "utf-8")
