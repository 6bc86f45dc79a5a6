"""More attacks of who may write the bucket, on a history that two keys sign and a witness was told of: one of
its keys was stolen and is revoked since, something was removed, evidence was amended, an erasure asked for.

The list follows docs/security.md and docs/signing.md. Each is refused, or named by `audit verify`, and
nothing that was not signed is in production. With `test_writer_attacks.py` they are more than sixty.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope
from typer.testing import CliRunner

from ft_dagster.audit.forget import forget_identities
from ft_dagster.audit.verify.verify import verify
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.lineage.erasures import REQUEST, ErasureEntry, append
from ft_dagster.lineage.log import countersign, read_log, waiting
from ft_dagster.provenance.signing import AMENDMENT, MANIFEST, RELEASE, TOMBSTONE, TRUST_FILE, Signer
from ft_dagster.records.refusals import refusal_key, refusals
from ft_dagster.store import Artifact, Place, Store, find_artifact, verify_artifact
from ft_dagster.store.amendments import Amendment, Change, amend
from ft_dagster.store.blobs import as_stored
from tests.audit.histories import History, question
from tests.long import mostly_long
from tests.s3_server import S3Server
from tests.security.writer_site import Attack, Site, flipped, only, removed, rewritten, signatures
from tests.store.signing_keys import STRANGER

pytestmark = pytest.mark.slow
ONE, TWO = "tenants/acme/one", "tenants/acme/two"
DATASET, WEIGHTS, EXPORT = f"{ONE}/task_dataset/", f"{TWO}/fine_tuned_model/", f"{ONE}/model_export/"
REMOVED, ERASURES = f"{TWO}/evaluation_of_nothing/", "erasures/acme"
THIEF: dict[str, Signer] = {}  # the key that was stolen, as its thief has it


def command(made: History, *words: str) -> str:
    done = CliRunner().invoke(app, ["--project", str(made.folder), *words])
    assert done.exit_code == 0, done.output
    return str(done.stdout)


class Story:
    """A history in which keys sign by turns."""

    def __init__(self, made: History, patch: pytest.MonkeyPatch) -> None:
        self.made, self.patch = made, patch
        self.entries = [
            json.loads(command(made, "trust", "new-key", name, "--role", role, "--json"))["entry"]
            for name, role in KEYS
        ]
        self.root()
        self.by("ours")
        command(made, "trust", "witness")

    def root(self, **revoked: Any) -> None:
        """Write the trust root; two have to sign a release."""
        keys = [
            {**entry, **({"revoked": revoked[entry["name"]]} if entry["name"] in revoked else {})}
            for entry in self.entries
        ]
        said = {"schema_version": 1, "version": 2 + len(revoked), "unsigned": "refused", "keys": keys}
        said |= {"threshold": {"release": 2}, "witnesses": [str(self.made.folder.parent / "witness")]}
        (self.made.folder / TRUST_FILE).write_text(json.dumps(said), "utf-8")

    def by(self, name: str) -> None:
        key = self.made.folder / ".ft_dagster/keys/signing" / f"{name}.pem"
        self.patch.setenv("FT_DAGSTER_SIGNING_KEY", str(key))

    def release(self, variant: str, weights: Artifact, base: Artifact, first: str, then: str) -> None:
        self.by(first)
        with pytest.raises(UserError, match="waits for 1 more"):
            self.made.release(variant, weights, base)
        self.by(then)
        store, prefix = self.made.store, f"tenants/{variant.replace('.', '/')}"
        seen = waiting(store, prefix, read_log(store, prefix))
        assert seen is not None
        assert countersign(store, prefix, seen) == 0


KEYS = (("ours", "builder"), ("second", "builder"), ("stolen", "builder"), ("books", "auditor"))


def signed_story(made: History, patch: pytest.MonkeyPatch, index: Path) -> Site:
    """Release 1 of acme.one is signed by the key that is stolen later, and known to the witness by then."""
    story = Story(made, patch)
    story.by("stolen")
    base = made.base()
    rows = [question(number) for number in range(20)]
    made.kept = "identities"
    dataset = made.dataset("acme.one", rows)
    weights = made.model("acme.one", made.mixture("acme.one", dataset), base)
    story.release("acme.one", weights, base, "stolen", "second")
    story.by("stolen")
    trust = made.store.trust
    assert trust is not None
    assert trust.signer is not None
    THIEF[made.store.url] = trust.signer
    last = json.loads(command(made, "trust", "checkpoints", "--json"))["checkpoints"][0]
    story.root(stolen={"witnessed": last["number"], "sha256": last["sha256"]})
    story.by("ours")
    assert forget_identities(made.audit(), dry_run=False).files
    made.kept = "trees"
    again = made.model("acme.one", made.mixture("acme.one", dataset, general=0), base, seed=1)
    story.release("acme.one", again, base, "ours", "second")
    story.by("ours")
    other = made.dataset("acme.two", rows[:19])
    gone = made.base_text(base)
    assert made.remove("base_text")
    assert gone
    theirs = made.model("acme.two", made.mixture("acme.two", other), base)
    story.release("acme.two", theirs, base, "ours", "second")
    story.by("ours")
    ask(made)
    ask(made)
    patch.delenv("FT_DAGSTER_SIGNING_KEY")  # who looks has no key
    found = Site(made, {}, index)
    assert found.said() == []
    shutil.copytree(found.known, index)
    store = made.store
    found.kept.update({file.path: store.read(file.path) for file in store.walk()})
    return found


def ask(made: History) -> None:
    key = refusal_key(made.settings.keys_folder, "acme")
    kept = refusals(key, [b"\1" * 32])
    append(
        made.store,
        "acme",
        lambda past: ErasureEntry(
            REQUEST, f"r{len(past)}", "acme", "ann", "art. 17", due="2099-12-31", key=key.id, refusals=kept
        ),
    )


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patched:
        yield patched


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Site:
    at = tmp_path_factory.mktemp("attacked")
    return signed_story(History(at / "project"), patch, at / "index")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch, s3_server: S3Server) -> Site:
    at = tmp_path_factory.mktemp("attacked")
    made = History(at / "project")
    said = {"store": f"s3://{s3_server.bucket}/signed-attacked", "store_options": s3_server.options}
    (made.folder / "ft_dagster.yaml").write_text(json.dumps(said), "utf-8")
    return signed_story(made, patch, at / "index")


# What a forger does


def manifest_of(store: Store, begins: str) -> str:
    """The first manifest there."""
    return min(f.path for f in store.walk() if f.path.startswith(begins) and f.path.endswith("manifest.json"))


def put_envelope(
    store: Store, content: bytes, kind: str, signer: Signer, id: str = "", *, prefix: str = ONE
) -> None:
    """Sign, under the key's own id or another's."""
    envelope = Envelope(content, kind, {})
    envelope.sign(signer._signer)
    said = json.dumps(envelope.to_dict()).replace(signer.key.id, id or signer.key.id)
    name = f"{hashlib.sha256(content).hexdigest()}.{id or signer.key.id}.json"
    store.write(f"{prefix}/signatures/{name}", said.encode())


def ids(store: Store) -> dict[str, str]:
    """The id of each trusted key."""
    assert store.trust is not None
    return {key.name: key.id for key in store.trust.keys}


def forged_manifest(sign: Callable[[Store, bytes], None]) -> Attack:
    """Other figures of a data set, and a signature by whatever the forger has."""

    def attack(store: Store) -> None:
        path = manifest_of(store, DATASET)
        said = json.loads(store.read(path))
        said["predicate"]["figures"]["rows"] = {"train": 1}
        content = as_stored(said)
        store.write(path, content)
        sign(store, content)

    return attack


def own_key(store: Store, content: bytes) -> None:
    put_envelope(store, content, MANIFEST, STRANGER)


def under_our_id(store: Store, content: bytes) -> None:
    put_envelope(store, content, MANIFEST, STRANGER, ids(store)["ours"])


def under_the_auditors_id(store: Store, content: bytes) -> None:
    put_envelope(store, content, MANIFEST, STRANGER, ids(store)["books"])


def by_the_thief(store: Store, content: bytes) -> None:
    put_envelope(store, content, MANIFEST, THIEF[store.url])


def bare(store: Store, content: bytes) -> None:
    """An envelope that nobody signed."""
    said = Envelope(content, MANIFEST, {}).to_dict()
    name = f"{hashlib.sha256(content).hexdigest()}.{ids(store)['ours']}.json"
    store.write(f"{ONE}/signatures/{name}", json.dumps(said).encode())


def genuine_of_another(store: Store, content: bytes) -> None:
    """A genuine envelope under the name that the forged statement asks for."""
    ours = next(path for path in signatures(store) if path.startswith(TWO) and ids(store)["ours"] in path)
    name = f"{hashlib.sha256(content).hexdigest()}.{ids(store)['ours']}.json"
    store.write(f"{ONE}/signatures/{name}", store.read(ours))


def payload_changed(store: Store, content: bytes) -> None:
    """The genuine signature, over the forged statement."""
    ours = next(path for path in signatures(store) if path.startswith(TWO) and ids(store)["ours"] in path)
    said = json.loads(store.read(ours)) | {"payload": Envelope(content, MANIFEST, {}).to_dict()["payload"]}
    name = f"{hashlib.sha256(content).hexdigest()}.{ids(store)['ours']}.json"
    store.write(f"{ONE}/signatures/{name}", json.dumps(said).encode())


def as_release(store: Store, content: bytes) -> None:
    """A manifest, by a signature that is of another kind of statement."""
    put_envelope(store, content, RELEASE, THIEF[store.url])


def thief_backdates(store: Store) -> None:
    """A manifest of before the theft, in its own words."""
    path = manifest_of(store, DATASET)
    said = json.loads(store.read(path))
    said["predicate"]["created"] = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    said["predicate"]["figures"]["rows"] = {"train": 1}
    content = as_stored(said)
    store.write(path, content)
    by_the_thief(store, content)


def of_another_variant(store: Store) -> None:
    """A manifest and its signatures, in another variant's part of the store."""
    path = manifest_of(store, f"{TWO}/task_dataset/")
    content = store.read(path)
    for name in signatures(store):
        if name.startswith(f"{TWO}/signatures/{hashlib.sha256(content).hexdigest()}"):
            store.write(name.replace(TWO, ONE, 1), store.read(name))
    store.write(manifest_of(store, DATASET), content)


def of_another_key(store: Store) -> None:
    """A signed manifest of the same variant and stage, under another key."""
    first, second = sorted(
        f.path for f in store.walk() if f.path.startswith(EXPORT) and f.path.endswith("manifest.json")
    )
    store.write(second, store.read(first))


def moved_key(store: Store) -> None:
    """A signed artifact again, under a key that nobody asked for."""
    path = manifest_of(store, DATASET)
    store.write(path.replace(path.split("/")[-2], "0" * 64), store.read(path))


def second_generation(store: Store) -> None:
    path = manifest_of(store, DATASET)
    store.write(path.replace("manifest.json", "manifest-2.json"), store.read(path))


def same_words(store: Store) -> None:
    """The manifest's words, in other bytes."""
    path = manifest_of(store, DATASET)
    store.write(path, json.dumps(json.loads(store.read(path)), indent=4).encode())


def newer_schema(store: Store) -> None:
    path = manifest_of(store, DATASET)
    said = json.loads(store.read(path))
    said["predicate"]["schema_version"] = 999
    store.write(path, as_stored(said))


# Release logs


def entry(prefix: str, number: int) -> str:
    return f"{prefix}/releases/{number:06d}.json"


def write_log_head(store: Store, prefix: str, number: int) -> None:
    sha256 = hashlib.sha256(store.read(entry(prefix, number))).hexdigest()
    store.write_json(
        f"{prefix}/releases/head.json", {"schema_version": 1, "entries": number, "sha256": sha256}
    )


def appended(sign: Callable[[Store, bytes], None], schema: int | None = None) -> Attack:
    """Version 1 of acme.one is put back into production, and the head written."""

    def attack(store: Store) -> None:
        before = store.read(entry(ONE, 2))
        said = {k: v for k, v in json.loads(before).items() if k not in OF_RELEASE}
        said |= {"action": "promote", "version": 1, "production": 1, "entry": "0" * 32, "forced": False}
        said |= {"export": json.loads(store.read(entry(ONE, 1)))["export"]}
        said |= {"previous": hashlib.sha256(before).hexdigest()}
        if schema is not None:
            said |= {"schema_version": schema}
            del said["previous"]
        content = as_stored(said)
        store.write(entry(ONE, 3), content)
        sign(store, content)
        write_log_head(store, ONE, 3)

    return attack


OF_RELEASE = (
    "verdict", "gates", "run_id", "export_manifest", "evaluation_manifest", "certificate",
)  # fmt: skip


def released_by_the_thief(store: Store, content: bytes) -> None:
    put_envelope(store, content, RELEASE, THIEF[store.url])


def by_the_thief_twice(store: Store, content: bytes) -> None:
    """The stolen key's signature, under the names of two more."""
    for name in ("ours", "second", "stolen"):
        put_envelope(store, content, RELEASE, THIEF[store.url], ids(store)[name])


def by_strangers(store: Store, content: bytes) -> None:
    for name in ("ours", "second"):
        put_envelope(store, content, RELEASE, STRANGER, ids(store)[name])


def of_the_entry_before(store: Store, content: bytes) -> None:
    """The envelopes of entry 2, under the names of entry 3."""
    before = hashlib.sha256(store.read(entry(ONE, 2))).hexdigest()
    for path in signatures(store):
        if before in path:
            store.write(path.replace(before, hashlib.sha256(content).hexdigest()), store.read(path))


def nothing(store: Store, content: bytes) -> None:
    pass


def one_signature_less(store: Store) -> None:
    sha256 = hashlib.sha256(store.read(entry(ONE, 2))).hexdigest()
    store.remove([f"{ONE}/signatures/{sha256}.{ids(store)['second']}.json"])


def other_copied(store: Store) -> None:
    """A signature that counts once, under the second key's name."""
    sha256, id = hashlib.sha256(store.read(entry(ONE, 2))).hexdigest(), ids(store)
    genuine = store.read(f"{ONE}/signatures/{sha256}.{id['ours']}.json")
    store.write(f"{ONE}/signatures/{sha256}.{id['second']}.json", genuine)


def repeated_entry(store: Store) -> None:
    store.write(entry(ONE, 3), store.read(entry(ONE, 2)))
    write_log_head(store, ONE, 3)


def entries_swapped(store: Store) -> None:
    one, two = store.read(entry(ONE, 1)), store.read(entry(ONE, 2))
    store.write(entry(ONE, 1), two)
    store.write(entry(ONE, 2), one)


def entry_of_another(store: Store) -> None:
    """The signed log of acme.two in the place of that of acme.one."""
    for path in [f.path for f in store.walk() if f.path.startswith(f"{ONE}/releases/")]:
        store.remove([path])
    for path in [f.path for f in store.walk() if f.path.startswith(f"{TWO}/releases/")]:
        store.write(path.replace(TWO, ONE), store.read(path))
    for path in signatures(store):
        if path.startswith(TWO):
            store.write(path.replace(TWO, ONE), store.read(path))


def rolled_back_log(store: Store) -> None:
    """The log as it was after its first entry, head and all: version 1 is served again."""
    store.remove([entry(ONE, 2)])
    write_log_head(store, ONE, 1)


def head_says_less(store: Store) -> None:
    write_log_head(store, ONE, 1)


def head_says_more(store: Store) -> None:
    head = json.loads(store.read(f"{ONE}/releases/head.json"))
    store.write_json(f"{ONE}/releases/head.json", {**head, "entries": 3})


def whole_log_gone(store: Store) -> None:
    store.remove([f.path for f in store.walk() if f.path.startswith(f"{TWO}/releases/")])


def waiting_entry_with_head(store: Store) -> None:
    """An entry that the thief alone signed, as one that waits; the head counts it already."""
    appended(released_by_the_thief)(store)


def new_variant(store: Store) -> None:
    """All of acme.two under a name that was never declared."""
    for file in [f.path for f in store.walk() if f.path.startswith(f"{TWO}/")]:
        store.write(file.replace(TWO, "tenants/acme/three", 1), store.read(file))


def new_tenant(store: Store) -> None:
    for file in [f.path for f in store.walk() if f.path.startswith(f"{TWO}/")]:
        store.write(file.replace("acme", "evil", 1), store.read(file))


# Removals, amendments, erasures


def tombstone_of(store: Store) -> str:
    [path] = (f.path for f in store.walk() if "/base_text/" in f.path and f.path.endswith("manifest.json"))
    return path


def removal(sign: Callable[[Store, bytes], None]) -> Attack:
    """The export that is served is said to be removed."""

    def attack(store: Store) -> None:
        path = manifest_of(store, EXPORT)
        said = {"at": "2026-01-01T00:00:00.000+00:00", "why": "nobody needs it"}
        content = as_stored({"schema_version": 1, "removed": said, "manifest": store.read(path).decode()})
        store.write(path, content)
        sign(store, content)

    return attack


def removed_by_the_thief(store: Store, content: bytes) -> None:
    put_envelope(store, content, TOMBSTONE, THIEF[store.url])


def removal_undone(store: Store) -> None:
    """A removed artifact's manifest again, from its own tombstone."""
    path = tombstone_of(store)
    store.write(path, json.loads(store.read(path))["manifest"].encode())


def removal_of_another(store: Store) -> None:
    """A signed removal, in the place of an artifact that stands."""
    store.write(only(store, "shared/base_model/", "manifest.json"), store.read(tombstone_of(store)))


def other_reason(store: Store) -> None:
    path = tombstone_of(store)
    said = json.loads(store.read(path))
    said["removed"]["why"] = "it was asked for"
    store.write(path, as_stored(said))


def amendment_of(store: Store) -> str:
    return min(f.path for f in store.walk() if f.path.startswith(DATASET) and "/amendments/" in f.path)


def amendment_replayed(store: Store) -> None:
    """A signed amendment, in the place of another variant's data set."""
    key = manifest_of(store, f"{TWO}/task_dataset/").removesuffix("/manifest.json")
    store.write(f"{key}/amendments/000001.json", store.read(amendment_of(store)))
    rows = only(store, f"{TWO}/task_dataset/", "/rows.parquet")
    store.write(rows, store.read(only(store, DATASET, "/rows.parquet")))


def amendment_by_the_thief(store: Store) -> None:
    path = manifest_of(store, DATASET)
    rows = only(store, DATASET, "/rows.parquet")
    before, other = store.sha256(rows), b"other rows"
    change = Change("evidence/rows.parquet", before, hashlib.sha256(other).hexdigest(), len(other))
    said = Amendment(
        "identities removed",
        hashlib.sha256(store.read(path)).hexdigest(),
        "2026-01-01T00:00:00+00:00",
        (change,),
    )
    trust, store.trust = store.trust, None
    written = amend(store, ONE, path.removesuffix("/manifest.json"), said)
    store.trust = trust
    put_envelope(store, store.read(written), AMENDMENT, THIEF[store.url])
    store.write(rows, other)


def erasure(number: int) -> str:
    return f"{ERASURES}/{number:06d}.json"


def erasure_head(store: Store, number: int) -> None:
    sha256 = hashlib.sha256(store.read(erasure(number))).hexdigest()
    store.write_json(f"{ERASURES}/head.json", {"schema_version": 1, "entries": number, "sha256": sha256})


def erasure_more(store: Store) -> None:
    """A hold that nobody asked for: the request no longer acts."""
    before = store.read(erasure(2))
    said = {**json.loads(before), "action": "hold", "previous": hashlib.sha256(before).hexdigest()}
    store.write(erasure(3), as_stored(said))
    erasure_head(store, 3)


def erasure_cut(store: Store) -> None:
    store.remove([erasure(2)])
    erasure_head(store, 1)


def erasures_gone(store: Store) -> None:
    store.remove([f.path for f in store.walk() if f.path.startswith(f"{ERASURES}/")])


def erasure_unsigned(store: Store) -> None:
    store.remove([path for path in signatures(store) if path.startswith(ERASURES)])


# Heads, tries, what is shared


def head_of_another(store: Store) -> None:
    store.write(f"{ONE}/heads/task_dataset.json", store.read(f"{TWO}/heads/task_dataset.json"))


def head_of_another_digest(store: Store) -> None:
    said = json.loads(store.read(f"{ONE}/heads/model_export.json"))
    store.write_json(f"{ONE}/heads/model_export.json", {**said, "digest": "0" * 64})


def older_head(store: Store) -> None:
    """The export of version 1, under the date at which that of version 2 was made."""
    said = json.loads(store.read(f"{ONE}/heads/model_export.json"))
    paths = (f.path for f in store.walk() if f.path.startswith(EXPORT) and f.path.endswith("manifest.json"))
    older = next(path for path in paths if said["key"] not in path)
    made = json.loads(store.read(older))["predicate"]["digest"]
    store.write_json(f"{ONE}/heads/model_export.json", {**said, "key": older.split("/")[-2], "digest": made})


def newest_try_gone(store: Store) -> None:
    tries = sorted(f.path for f in store.walk() if f.path.startswith(f"{ONE}/tries/"))
    store.remove(tries[-1:])


def tries_gone(store: Store) -> None:
    store.remove([f.path for f in store.walk() if f.path.startswith(f"{ONE}/tries/")])


def code_other(store: Store) -> None:
    path = next(f.path for f in store.walk() if f.path.startswith("shared/code/"))
    store.write(path, b"other code")


def another_trust_root(store: Store) -> None:
    """A trust root in the store, by which the forger's key counts; a forged manifest that is signed by it."""
    key = {"name": "eve", "role": "auditor", "begins": "2020-01-01", "public": STRANGER.key.pem}
    said = json.dumps({"schema_version": 1, "version": 9, "unsigned": "accepted", "keys": [key]}).encode()
    for place in (TRUST_FILE, f"tenants/acme/{TRUST_FILE}", f"shared/{TRUST_FILE}", f"{ONE}/{TRUST_FILE}"):
        store.write(place, said)
    forged_manifest(own_key)(store)


REFUSED = "trusts signed this"
FEW = "of the 2 signatures"
ATTACKS: dict[str, tuple[Attack, str]] = {
    "a manifest by a key of the forger's": (forged_manifest(own_key), REFUSED),
    "one under the id of our key": (forged_manifest(under_our_id), REFUSED),
    "one under the id of the auditor's": (forged_manifest(under_the_auditors_id), REFUSED),
    "one by the stolen key": (forged_manifest(by_the_thief), REFUSED),
    "one by the stolen key, of before the theft": (thief_backdates, REFUSED),
    "one in an envelope without a signature": (forged_manifest(bare), REFUSED),
    "one beside the envelope of another": (forged_manifest(genuine_of_another), REFUSED),
    "one in the envelope of another": (forged_manifest(payload_changed), REFUSED),
    "one that is signed as another kind": (forged_manifest(as_release), REFUSED),
    "a trust root in the store": (another_trust_root, REFUSED),
    "a signed manifest of another variant": (of_another_variant, "manifest"),
    "a signed manifest of another key": (of_another_key, "manifest"),
    "a signed manifest under a key more": (moved_key, "0" * 64),
    "a signed manifest once more": (second_generation, "manifest-2"),
    "a manifest in other bytes": (same_words, REFUSED),
    "a manifest of a newer schema": (newer_schema, "manifest.json"),
    "an entry that nobody signed": (appended(nothing), REFUSED),
    "an entry by the stolen key": (appended(released_by_the_thief), REFUSED),
    "an entry by the stolen key under more names": (appended(by_the_thief_twice), REFUSED),
    "an entry by keys of the forger's under two names": (appended(by_strangers), REFUSED),
    "an entry with the envelopes of the one before": (appended(of_the_entry_before), REFUSED),
    "an entry of an older schema": (appended(nothing, schema=2), "000003.json"),
    "an entry with one signature less": (one_signature_less, FEW),
    "an entry with one signature twice": (other_copied, FEW),
    "an entry repeated": (repeated_entry, "000003.json"),
    "entries in another order": (entries_swapped, "00000"),
    "the log of another variant": (entry_of_another, "another variant"),
    "the log as it was": (rolled_back_log, "it was cut"),
    "a log's head that says less": (head_says_less, "000002.json"),
    "a log's head that says more": (head_says_more, "000003.json"),
    "a log's head deleted": (removed(f"{ONE}/releases/head", "json"), "head.json"),
    "a whole log deleted": (whole_log_gone, "1 release log that it saw is not in the store"),
    "a variant more": (new_variant, "tenants/acme/three"),
    "a tenant more": (new_tenant, "tenants/evil"),
    "a removal that nobody signed": (removal(nothing), REFUSED),
    "a removal by the stolen key": (removal(removed_by_the_thief), REFUSED),
    "a removal undone": (removal_undone, "base_text"),
    "a removal of another artifact": (removal_of_another, "base_model"),
    "a removal for another reason": (other_reason, REFUSED),
    "an amendment of another data set": (amendment_replayed, "amendments/000001.json"),
    "an amendment by the stolen key": (amendment_by_the_thief, REFUSED),
    "an amendment deleted": (lambda s: s.remove([amendment_of(s)]), "other bytes"),
    "an entry more of an erasure log": (erasure_more, REFUSED),
    "an erasure log changed": (rewritten(erasure(1), "", lambda e: e.update(due="2999-01-01")), ERASURES),
    "an erasure log cut": (erasure_cut, "000002.json: it is gone"),
    "an erasure log deleted": (erasures_gone, "000001.json: it is gone"),
    "an erasure log without signatures": (erasure_unsigned, REFUSED),
    "a head of another variant": (head_of_another, "heads/task_dataset.json"),
    "a head with another digest": (head_of_another_digest, "heads/model_export.json"),
    "a head at an older export": (older_head, "heads/model_export.json"),
    "the newest try deleted": (newest_try_gone, "tries"),
    "all tries deleted": (tries_gone, "tries"),
    "the certificate of an export": (flipped(f"{TWO}/model_export/", "/model.json"), "other bytes"),
    "a base": (flipped("shared/base_model/", "/base.json"), "other bytes"),
    "the code that made it": (code_other, "code"),
}


def in_production(site: Site) -> dict[str, str | None]:
    """What each variant serves, as whoever has no memory of it reads it: the manifest of its export, whose
    bytes hold, or None where that is refused.
    """
    store = site.made.store
    found: dict[str, str | None] = {}
    for prefix in (ONE, TWO):
        try:
            log = read_log(store, prefix)
            newest = log.entries[-1].production
            [served] = (one for one in log.entries if one.version == newest and one.action == "release")
            export = export_of(store, prefix, str(served.export))
            verify_artifact(store, export, site.made.settings.cache_folder)
            found[prefix] = export.manifest
        except (UserError, LookupError):
            found[prefix] = None
    return found


def export_of(store: Store, prefix: str, digest: str) -> Artifact:
    for path in (f.path for f in store.walk(f"{prefix}/model_export") if f.path.endswith("manifest.json")):
        made = find_artifact(store, Place(prefix, "model_export", path.split("/")[-2]))
        if made is not None and made.digest == digest:
            return made
    raise LookupError(digest)


ROLLS_BACK = {"the log as it was", "a log's head that says less"}  # to what is signed: a witness says so


def nothing_is_appended(site: Site) -> None:
    with pytest.MonkeyPatch.context() as patch:
        key = site.made.folder / ".ft_dagster/keys/signing/ours.pem"
        patch.setenv("FT_DAGSTER_SIGNING_KEY", str(key))
        store = site.made.store
        assert store.witnesses is not None
        with pytest.raises(UserError, match="it was cut"):
            store.witnesses.refuse_behind({ONE: (read_log(store, ONE).hashes, "here")})


def refused_or_named(site: Site, name: str) -> None:
    attack, word = ATTACKS[name]
    before = in_production(site)
    assert None not in before.values()
    try:
        attack(site.made.store)
        said = site.said()
        assert any(word in line for line in said), said
        after = in_production(site)
        assert name in ROLLS_BACK or all(after[each] in (None, before[each]) for each in before)
        if name in ROLLS_BACK:
            nothing_is_appended(site)
    finally:
        site.restore()
    assert site.said() == []


def test_a_tenants_auditor_is_told_of_the_erasure_log_of_that_tenant_alone(folder: Site) -> None:
    store = folder.made.store
    try:
        erasure_more(store)
        of = {name: verify(folder.made.audit(tenant=name)).problems for name in ("acme", None)}
        assert all(any(erasure(3) in line for line in lines) for lines in of.values())
        shutil.copytree(folder.index, folder.known, dirs_exist_ok=True)
        new_tenant(store)
        assert not any("erasures" in line for line in verify(folder.made.audit(tenant="evil")).problems)
    finally:
        folder.restore()


def test_with_those_on_a_plain_history_there_are_more_than_sixty() -> None:
    assert len(ATTACKS) >= 50  # and 20 there


@pytest.mark.parametrize("name", mostly_long(ATTACKS, every=5))
def test_what_the_writer_of_a_folder_does_is_refused_or_named(folder: Site, name: str) -> None:
    refused_or_named(folder, name)


@pytest.mark.parametrize("name", mostly_long(ATTACKS, every=14))
def test_what_the_writer_of_a_bucket_does_is_refused_or_named(bucket: Site, name: str) -> None:
    refused_or_named(bucket, name)
