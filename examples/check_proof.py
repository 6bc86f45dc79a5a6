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


proof, (kind, parts) = (json.loads(Path(name).read_text("utf-8")) for name in sys.argv[1:3])
content = [1, kind, [[role, normal(text)] for role, text in parts]]
identity = sha(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
salt, [leaf] = bytes.fromhex(proof["salt"]), proof["leaves"]
record, facts = sha(salt + identity), sha(salt + proof["facts"].encode())
node = sha(b"\x00" + bytes.fromhex(leaf["lookup"]) + record + facts)

index, last = leaf["index"], proof["tree"]["size"] - 1
siblings = [bytes.fromhex(sibling) for sibling in leaf["path"]]
while last:
    if index % 2:
        node = sha(b"\x01" + siblings.pop(0) + node)
    elif index < last:
        node = sha(b"\x01" + node + siblings.pop(0))
    index, last = index // 2, last // 2

mixture, model = (proof["manifests"][name] for name in ("training_mixture", "fine_tuned_model"))
root = json.loads(mixture)["predicate"]["figures"]["records"]["root"]
trained_on = json.loads(model)["predicate"]["input_manifests"]["training_mixture"]
if node.hex() != root or siblings:
    sys.exit("the record is not in the mixture")
if hashlib.sha256(mixture.encode()).hexdigest() != trained_on:
    sys.exit("the model was trained on another mixture")
print("in:", proof["facts"])
print("manifest of the model:", hashlib.sha256(model.encode()).hexdigest())
