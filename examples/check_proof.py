"""Checks a proof of presence by Python alone: check_proof.py proof.json record.json (docs/audit.md)."""

import hashlib
import json
import sys
import unicodedata
from pathlib import Path


def sha(data):
    return hashlib.sha256(data).digest()


def normal(text):  # characters that nobody sees, such as zero-width spaces, are to be taken out before
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def root_of(row, identity):
    """By the leaf of a row of the mixture; it has several where the record stands in it several times."""
    salt, [leaf] = bytes.fromhex(row["salt"]), row["leaves"]
    record, facts = sha(salt + identity), sha(salt + row["facts"].encode())
    node = sha(b"\x00" + bytes.fromhex(leaf["lookup"]) + record + facts)
    index, last = leaf["index"], proof["tree"]["size"] - 1
    siblings = [bytes.fromhex(sibling) for sibling in leaf["path"]]
    while last:
        if index % 2:
            node = sha(b"\x01" + siblings.pop(0) + node)
        elif index < last:
            node = sha(b"\x01" + node + siblings.pop(0))
        index, last = index // 2, last // 2
    return None if siblings else node.hex()


proof, (kind, parts) = (json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:3])
content = [1, kind, [[role, normal(text)] for role, text in parts]]
identity = sha(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
mixture, model = (proof["manifests"][name] for name in ("training_mixture", "fine_tuned_model"))
root = json.loads(mixture)["predicate"]["figures"]["records"]["root"]
trained_on = json.loads(model)["predicate"]["input_manifests"]["training_mixture"]
rows = [proof, *proof.get("also", [])]
named = [row for row in rows if row["identity"] == identity.hex()]  # a source may read the record otherwise
if not named or any(root_of(row, identity) != root for row in named):
    sys.exit("the record is not in the mixture")
if len({row["leaves"][0]["index"] for row in named}) < len(named):
    sys.exit("one row is shown twice")
if hashlib.sha256(mixture.encode()).hexdigest() != trained_on:
    sys.exit("the model was trained on another mixture")
for row in named:
    print("in:", row["facts"])
if len(named) < len(rows):
    print("not checked:", len(rows) - len(named), "rows that were read otherwise")
print("manifest of the model:", hashlib.sha256(model.encode()).hexdigest())
