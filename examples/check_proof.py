"""Checks a proof of presence by Python alone: check_proof.py proof.json record.json; docs/proof-format.md"""

import hashlib
import json
import re
import sys
import unicodedata
from itertools import groupby
from pathlib import Path

VERSIONS = (1, 2)
MEANT = {"<super>", "<sub>", "<fraction>", "<circle>", "<square>", "<font>"}
HASH, SALT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{32}")
UNSEEN = re.compile(  # control characters but white space, and what nobody sees, such as zero-width spaces
    "[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
LEAF = {"index": int, "lookup": HASH, "record": HASH, "facts_sha256": HASH, "path": [HASH]}
ROW = {"identity": HASH, "salt": SALT, "facts": str, "leaves": [LEAF]}
PROOF = {
    **ROW, "schema_version": int, "kind": re.compile("presence"), "times": int, "rows": int, "also": [ROW],
    "tree": {"size": int, "key": str, "root": HASH},
    "manifests": {"training_mixture": str, "fine_tuned_model": str},
}  # fmt: skip
LATER = {"rows": 1, "also": []}  # fields that proofs of version 1 do not have


def need(holds, problem):
    if not holds:
        sys.exit(problem)


def named_once(pairs):
    found = {}
    for name, value in pairs:
        need(name not in found, f"not a proof: {name} is said twice")
        found[name] = value
    return found


def read(file):
    try:
        found = json.loads(Path(file).read_text("utf-8"), object_pairs_hook=named_once)
        json.dumps(found, ensure_ascii=False).encode()  # half a pair of UTF-16 is no text
        return found
    except FileNotFoundError:
        sys.exit(f"{file}: no such file")
    except (OSError, ValueError, RecursionError) as error:
        sys.exit(f"{file}: not JSON: {str(error).splitlines()[0]}")


def check_form(value, form, name):
    """Whole numbers and hashes of their length alone: a leaf that is cut elsewhere shows nothing."""
    if isinstance(form, dict):
        need(isinstance(value, dict), f"not a proof: {name} is no object")
        for part, of in form.items():
            check_form(value.get(part, LATER.get(part)), of, f"{name}.{part}".lstrip("."))
    elif isinstance(form, list):
        need(isinstance(value, list), f"not a proof: {name} is no list")
        for at, one in enumerate(value):
            check_form(one, form[0], f"{name}.{at}")
    elif isinstance(form, re.Pattern):
        need(type(value) is str and form.fullmatch(value), f"not a proof: {name} is {value!r:.80}")
    else:  # a bool is no whole number
        need(
            type(value) is form and (form is str or 0 <= value < 2**63),
            f"not a proof: {name} is {value!r:.80}",
        )


def sha(data):
    return hashlib.sha256(data).digest()


def folded(text):
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def normal(text):
    return " ".join(folded(UNSEEN.sub("", text)).split())


def is_lost(character):
    """Whether the normal form makes another meaning of it: 10⁶ would be 106."""
    mark, *codes = unicodedata.decomposition(character).split() or [""]
    return mark in MEANT or (mark == "<compat>" and any(chr(int(code, 16)).isdigit() for code in codes))


def exact(text):
    runs = groupby(unicodedata.normalize("NFC", UNSEEN.sub("", text)), is_lost)
    runs = [(lost, "".join(characters)) for lost, characters in runs]
    return " ".join("".join(run.casefold() if lost else folded(run) for lost, run in runs).split())


def as_json(content):
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def in_strings(form, content):
    return re.sub(r'"(?:[^"\\]|\\.)*"', lambda found: as_json(form(json.loads(found[0]))), as_json(content))


def identities_of(record):
    """Identity 1, of the texts alone; identity 2 after it, where a record says more than that tells."""
    try:
        kind, parts, *tools = record
        texts = [text for _, text, *_ in parts]
        one = [1, kind, [[role, normal(text)] for role, text, *_ in parts]]
        two = [
            2,
            kind,
            [[role, exact(text), *(in_strings(exact, said) for said in more)] for role, text, *more in parts],
        ]
        two += [in_strings(exact, each) for each in tools]
        more = tools or any(len(part) > 2 for part in parts) or any(map(is_lost, "".join(texts)))
        return [sha(as_json(each).encode()) for each in ([one, two] if more else [one])]
    except (TypeError, ValueError):
        sys.exit('no record: ["text", [["text", "..."]]] is one, see docs/proof-format.md')


def root_of(row, identity):
    """By the leaf of a row of the mixture; it has several where the record stands in it several times."""
    salt, [leaf] = bytes.fromhex(row["salt"]), row["leaves"]
    record, facts = sha(salt + identity), sha(salt + row["facts"].encode())
    node = sha(b"\x00" + bytes.fromhex(leaf["lookup"]) + record + facts)
    index, last = leaf["index"], proof["tree"]["size"] - 1
    siblings = [bytes.fromhex(sibling) for sibling in leaf["path"]]
    if index > last:
        return None
    while last:
        if index % 2 or index < last:
            if not siblings:
                return None
            other = siblings.pop(0)
            node = sha(b"\x01" + (other + node if index % 2 else node + other))
        index, last = index // 2, last // 2
    return None if siblings else node.hex()


def predicate_of(manifest):
    try:
        return json.loads(manifest, object_pairs_hook=named_once)["predicate"]
    except (ValueError, RecursionError, LookupError, TypeError):
        sys.exit("not a proof: a manifest that is none")


need(len(sys.argv) == 3, __doc__)
proof, identities = read(sys.argv[1]), identities_of(read(sys.argv[2]))
need(isinstance(proof, dict), "not a proof: no object")
version = proof.get("schema_version")
need(
    type(version) is int and version in VERSIONS,
    f"not a proof: schema_version is {version!r:.80}, not 1 or 2",
)
need(proof.get("kind") != "absence", "a proof of absence: `ft-dagster audit check --key` checks it")
check_form(proof, PROOF, "")
rows = [proof, *proof.get("also", [])]
need(all(len(row["leaves"]) == 1 for row in rows), "not a proof: leaves of a row are not one")
mixture, model = (proof["manifests"][name] for name in ("training_mixture", "fine_tuned_model"))
try:
    made, trained = predicate_of(mixture), predicate_of(model)
    stages, tree = [made["stage"], trained["stage"]], made["figures"]["records"]
    root, trained_on = tree["root"], trained["input_manifests"]["training_mixture"]
    same = [tree[name] for name in ("root", "size", "key")] == [
        proof["tree"][name] for name in ("root", "size", "key")
    ]
except (LookupError, TypeError):
    sys.exit("not a proof: a manifest that names no root, or no mixture")
need(stages == ["training_mixture", "fine_tuned_model"], "a manifest is of another stage")
need(same, "the mixture has another tree")
named = [row for row in rows if row["identity"] == identities[-1].hex()]  # a source may read it otherwise
named = named or [row for row in rows if row["identity"] == identities[0].hex()]
if not named or any(root_of(row, bytes.fromhex(row["identity"])) != root for row in named):
    sys.exit("the record is not in the mixture")
if len({row["leaves"][0]["index"] for row in named}) < len(named):
    sys.exit("one row is shown twice")
if hashlib.sha256(mixture.encode()).hexdigest() != trained_on:
    sys.exit("the model was trained on another mixture")
for row in named:
    print("in:", row["facts"])
if named[0]["identity"] != identities[-1].hex():
    print("not checked: that it is this very record: identity 1 does not tell 10⁶ from 106, a call from none")
if len(named) < len(rows):
    print("not checked:", len(rows) - len(named), "rows that were read otherwise")
if proof.get("through"):
    print("not checked: the manifests from the model that was asked about to this one, its parent")
print("manifest of the model:", hashlib.sha256(model.encode()).hexdigest())
