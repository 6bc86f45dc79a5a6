"""No change of an envelope, of a checkpoint or of a log's proof has something count that nobody signed."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance.merkle import leaf_hash, root_of
from ft_dagster.provenance.signing import COUNT, MANIFEST, RELEASE, Signer, TrustedKey, envelope_content
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store import Store
from ft_dagster.store.numbered import numbered
from ft_dagster.store.witness import FOLDER, Witnesses
from tests.forgeries import changed
from tests.store.signing_keys import APPROVES, AUDITOR, BUILDER, NOW, SIGNS, STRANGER, VOUCHES, trust

FORGERIES = 200
SIGNED = json.dumps({"version": 3, "production": 2, "by": "ann", "at": NOW.isoformat()}).encode()


def another_statement(envelope: dict[str, Any], chance: random.Random) -> bytes:
    """The envelope of a changed statement, under the old signature."""
    forged = SIGNED
    while forged == SIGNED:
        forged = changed(json.loads(SIGNED), chance).encode()
    return json.dumps({**envelope, "payload": base64.b64encode(forged).decode()}).encode()


def another_kind(envelope: dict[str, Any], chance: random.Random) -> bytes:
    kind = chance.choice([each for each in COUNT if each != envelope["payloadType"]])
    return json.dumps({**envelope, "payloadType": kind}).encode()


def another_signer(envelope: dict[str, Any], chance: random.Random) -> bytes:
    """A stranger's signature under a trusted key's name, or a trusted one under another's."""
    by = json.loads(chance.choice([STRANGER, SIGNS, VOUCHES]).envelope(SIGNED, envelope["payloadType"]))
    [one] = by["signatures"]
    named = chance.choice([key.id for key in (BUILDER, AUDITOR) if key.id != one["keyid"]])
    return json.dumps({**envelope, "signatures": [{**one, "keyid": named}]}).encode()


def other_bits(envelope: dict[str, Any], chance: random.Random) -> bytes:
    """A bit of the signature is another."""
    [one] = envelope["signatures"]
    signature = bytearray(base64.b64decode(one["sig"]))
    signature[chance.randrange(len(signature))] ^= 1 << chance.randrange(8)
    said = {**one, "sig": base64.b64encode(signature).decode()}
    return json.dumps({**envelope, "signatures": [said]}).encode()


def another_place(envelope: dict[str, Any], chance: random.Random) -> bytes:
    return changed(envelope, chance).encode()


def cut(envelope: dict[str, Any], chance: random.Random) -> bytes:
    content = json.dumps(envelope).encode()
    return content[: chance.randrange(len(content))]


WAYS: tuple[Callable[[dict[str, Any], random.Random], bytes], ...] = (
    another_statement, another_kind, another_signer, other_bits, another_place, cut,
)  # fmt: skip


@pytest.mark.parametrize("signer", [SIGNS, VOUCHES], ids=["builder", "auditor"])
def test_of_two_hundred_forged_envelopes_none_counts(signer: Signer) -> None:
    root, envelope = trust(None), json.loads(signer.envelope(SIGNED, MANIFEST))
    assert by(root, SIGNED, MANIFEST, json.dumps(envelope).encode()) == (signer.key,)
    for seed in range(FORGERIES):
        chance = random.Random(seed)
        way = WAYS[seed % len(WAYS)]
        forged = way(envelope, chance)
        for content, kind in {(SIGNED, MANIFEST), *said_in(forged)}:
            found = by(root, content, kind, forged)
            whole = (content, kind) == (SIGNED, MANIFEST) and way is another_place
            assert found == () or (whole and found == (signer.key,)), (seed, way.__name__)


def by(root: Any, content: bytes, kind: str, envelope: bytes) -> tuple[TrustedKey, ...]:
    found: tuple[TrustedKey, ...] = root.signers(content, kind, NOW, [envelope])
    return found


def said_in(envelope: bytes) -> set[tuple[bytes, str]]:
    """What a forged envelope says that it is of: as who wrote it would put beside it."""
    try:
        said = json.loads(envelope)
        return {(envelope_content(said), said["payloadType"])} if said["payloadType"] in COUNT else set()
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def test_an_approver_signs_no_manifest_whatever_the_envelope_says() -> None:
    root = trust(None)
    for kind in (MANIFEST, RELEASE):
        envelope = json.loads(APPROVES.envelope(SIGNED, kind))
        relabelled = json.dumps({**envelope, "payloadType": MANIFEST}).encode()
        assert by(root, SIGNED, MANIFEST, relabelled) == ()


A = "tenants/acme/a"


@pytest.fixture
def told(store: Store, tmp_path: Path) -> Witnesses:
    made = Witnesses(trust(SIGNS), (store,), tmp_path / "keys/witness.key", tmp_path / "host")
    made.tell(
        {f"tenants/acme/{name}": Seen(number, str(number) * 64) for number, name in enumerate("abcde", 2)}
    )
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "witness"))


def test_of_two_hundred_forged_checkpoints_each_is_refused_or_says_the_same(
    store: Store, told: Witnesses
) -> None:
    path = numbered(FOLDER, 1)
    content, logs, refused = store.read(path), told.newest(store).logs, 0
    for seed in range(FORGERIES):
        store.write(path, changed(json.loads(content), random.Random(seed)).encode())
        try:
            assert told.newest(store).logs == logs, seed
        except UserError as error:
            refused += "signed this checkpoint" in str(error)
    assert refused > 0.6 * FORGERIES


def test_of_two_hundred_forged_proofs_of_a_log_none_leads_to_the_signed_root(told: Witnesses) -> None:
    [proof] = told.proofs(A).values()
    shown, refused = {name: proof[name] for name in ("leaf", "index", "size", "path")}, 0
    root = json.loads(envelope_content(proof["envelope"]))["root"]
    assert led_to(shown) == root
    for seed in range(FORGERIES):
        forged = json.loads(changed(shown, random.Random(seed)))
        if led_to(forged) == root:
            assert forged.get("leaf") == shown["leaf"], seed
        else:
            refused += 1
    assert refused > 0.6 * FORGERIES


def led_to(proof: Any) -> str | None:
    """The root that a proof leads to, by whoever checks one."""
    try:
        path = [bytes.fromhex(each) for each in proof["path"]]
        found = root_of(leaf_hash(proof["leaf"].encode()), proof["index"], proof["size"], path)
        return None if found is None else found.hex()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
