"""What a revoked key signed stands as far as a witness had seen it, and nothing else, whatever its date."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.log import entry_path, folder_of, read_log
from ft_dagster.lineage.log_files import HEAD
from ft_dagster.lineage.release import ReleaseCandidate
from ft_dagster.lineage.statements import sign_history, unsigned
from ft_dagster.provenance.signing import CHECKPOINT, MANIFEST, RELEASE, Signer, TrustedKey, envelope_content
from ft_dagster.provenance.witnessed import Seen
from ft_dagster.store import SHARED, Artifact, Attempt, Store, find_artifact
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.numbered import numbered
from ft_dagster.store.removal import claim_removal, finish_removal
from ft_dagster.store.signatures import sign
from ft_dagster.store.witness import FOLDER, Witnesses
from tests.certificates import certificate
from tests.lineage.releases import GATES, PREFIX, VERDICT, put, weights
from tests.store.signing_keys import AUDITOR, BUILDER, NOW, SIGNS, VOUCHES, trust

NOBODY = r"nobody whom trust\.yaml trusts signed this"


class Site:
    """A store with two releases, of which a witness had seen the first by its checkpoint 2; then the key was
    stolen.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.witness = folder, Store(str(folder / "witness"))
        self.store = self.opened(SIGNS)
        self.told = self.witnesses(self.store)
        self.told.tell({"tenants/acme/begun": Seen(1, "0" * 64)})
        self.one = self.released("one")
        self.position = next(self.told.checkpoints(1)).position
        self.two = self.released("two")

    def witnesses(self, store: Store) -> Witnesses:
        assert isinstance(store.witnesses, Witnesses)
        return store.witnesses

    def opened(self, signer: Signer | None, *keys: TrustedKey, unsigned: str = "refused") -> Store:
        store = Store(str(self.folder / "store"))
        store.trust = trust(signer, *keys, unsigned=unsigned)
        host = self.folder / "host"
        store.witnesses = Witnesses(store.trust, (self.witness,), self.folder / "keys/witness.key", host)
        return store

    def revoked(self, signer: Signer | None = None, unsigned: str = "refused", **kept: Any) -> Store:
        """The store on another host, where the builder's key is revoked but for what the witness had seen."""
        shutil.rmtree(self.folder / "host", ignore_errors=True)
        key = replace(BUILDER, revoked=True, **{"kept": self.position, **kept})
        return self.opened(signer, key, AUDITOR, unsigned=unsigned)

    def released(self, name: str) -> list[Artifact]:
        base = self.made("base_model", name, prefix=SHARED)
        data = self.made("task_dataset", name, base)
        of = weights(name)
        judged = self.made("evaluation", name, data, fine_tuned_model=of, gates=GATES)
        export = self.made("model_export", name, judged, fine_tuned_model=of)
        put(self.store, ReleaseCandidate(export, judged, VERDICT, GATES, certificate(export.digest, of)))
        return [base, data, judged, export]

    def made(self, stage: str, name: str, *of: Artifact, prefix: str = PREFIX, **inputs: str) -> Artifact:
        def build(attempt: Attempt) -> dict[str, Any]:
            (attempt.payload / "file").write_text(name)
            return {}

        manifests = {one.place.stage: one.manifest for one in of}
        digests = {one.place.stage: one.digest for one in of}
        variant = None if prefix == SHARED else "acme.support"
        recipe = Recipe(stage, prefix, {**digests, **inputs}, {"of": name}, variant, manifests=manifests)
        return make_artifact(self.store, self.folder / "work", recipe, build)

    def by_the_thief(self, path: str, kind: str, change: Callable[[Any], None]) -> bytes:
        """Who has the key and writes the store puts something else there, signed, with the same date."""
        said = json.loads(self.store.read(path))
        change(said)
        content = json.dumps(said).encode()
        self.store.write(path, content)
        sign(self.store, SHARED if path.startswith(SHARED) else PREFIX, content, kind)
        return content


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def stands(store: Store, made: Artifact) -> bool:
    try:
        return find_artifact(store, made.place) is not None
    except UserError as error:
        if "trusts signed this" not in str(error):
            raise
        return False


def test_what_the_witness_had_seen_stands_and_nothing_after_it(site: Site) -> None:
    after = site.revoked()
    assert [stands(after, each) for each in (*site.one, *site.two)] == [True] * 4 + [False] * 4
    with pytest.raises(UserError, match=rf"000002\.json: {NOBODY}"):
        read_log(after, PREFIX)
    left = [one.path for one in unsigned(site.revoked(unsigned="accepted"))]
    assert sorted(left) == sorted([*(each.manifest_path for each in site.two), entry_path(PREFIX, 2)])
    assert len(list(sign_history(site.revoked(VOUCHES, "accepted")))) == 5
    assert len(read_log(site.revoked(), PREFIX).entries) == 2


def test_of_a_key_that_is_revoked_without_a_checkpoint_nothing_stands(site: Site) -> None:
    assert not any(stands(site.revoked(kept=None), each) for each in site.one)


@pytest.mark.parametrize("which", range(4), ids=["base", "data", "evaluation", "export"])
def test_a_manifest_that_the_thief_dated_back_is_unsigned(site: Site, which: int) -> None:
    made = site.one[which]
    site.by_the_thief(made.manifest_path, MANIFEST, lambda said: said["predicate"].update(figures={"x": 1}))
    assert stands(site.store, made), "it is signed, and of the right date"
    assert not stands(site.revoked(), made)


def test_of_a_log_that_the_thief_wrote_anew_nothing_stands(site: Site) -> None:
    content = site.by_the_thief(entry_path(PREFIX, 1), RELEASE, lambda said: said.update(by="mallory"))
    (Path(site.store.root) / entry_path(PREFIX, 2)).unlink()
    head = {"schema_version": 1, "entries": 1, "sha256": hashlib.sha256(content).hexdigest()}
    site.store.write_json(f"{folder_of(PREFIX)}/{HEAD}", head)
    assert read_log(site.store, PREFIX).entries[0].by == "mallory"
    after = site.revoked()
    with pytest.raises(UserError, match=rf"000001\.json: {NOBODY}"):
        read_log(after, PREFIX)
    assert not any(stands(after, each) for each in site.one), "what it names is not what was seen"


def test_a_checkpoint_that_the_thief_wrote_anew_is_another(site: Site) -> None:
    """They may write the witness, too: it says by now that it saw the second release at checkpoint 2."""
    newest = json.loads(site.witness.read(numbered(FOLDER, 3)))
    facts = json.loads(envelope_content(newest["envelope"]))
    statement = json.dumps({**facts, "number": 2}).encode()
    newest["envelope"] = json.loads(SIGNS.envelope(statement, CHECKPOINT))
    site.witness.write(numbered(FOLDER, 2), json.dumps(newest).encode())
    after = site.revoked()
    assert not any(stands(after, each) for each in (*site.one, *site.two))
    with pytest.raises(UserError, match="not the checkpoint that checkpoint 3 was written after"):
        list(site.told.checkpoints(2))


def test_without_a_witness_nothing_stands(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "ft_dagster.store.witness")
    after = site.revoked()
    after.witnesses = None
    assert not any(stands(after, each) for each in site.one)
    Path(site.witness.root).rename(site.folder / "unmounted")
    after = site.revoked()
    assert not any(stands(after, each) for each in site.one)
    [said] = caplog.messages
    assert said.startswith("no witness shows checkpoint 2")


def test_a_host_keeps_the_checkpoint_that_it_looked_at(site: Site) -> None:
    assert stands(site.revoked(), site.one[0])
    Path(site.witness.root).rename(site.folder / "unmounted")
    key = replace(BUILDER, revoked=True, kept=site.position)
    assert stands(site.opened(None, key, AUDITOR), site.one[1])
    other = replace(key, kept=site.position._replace(sha256="f" * 64))
    assert not stands(site.opened(None, other, AUDITOR), site.one[1])


def test_what_led_to_a_removed_artifact_stands(site: Site) -> None:
    base, data, judged, export = site.one
    assert claim_removal(site.store, judged, "nothing needed it", NOW.timestamp() + 9)
    finish_removal(site.store, judged)
    after = site.revoked()
    assert all(stands(after, each) for each in (base, data, export))
    assert not stands(after, judged), "of the removal no witness was told"
