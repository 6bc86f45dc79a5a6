"""A store whose trust root refuses what nobody signed reads nothing that its writer made alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope

from ft_dagster.errors import UserError
from ft_dagster.lineage.copying import copy_store
from ft_dagster.lineage.erasures import REQUEST, ErasureEntry, append, read_erasures
from ft_dagster.lineage.retention import Rules
from ft_dagster.lineage.statements import sign_history, unsigned
from ft_dagster.provenance.signing import MANIFEST, Signer, TrustedKey
from ft_dagster.settings import Retention
from ft_dagster.store import Attempt, Store, find_artifact
from ft_dagster.store.artifacts import Removed, generations
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.removal import DAY, check_tombstone, claim_removal, finish_removal, keep
from ft_dagster.store.signatures import sign
from tests.present import present
from tests.store.signing_keys import (
    APPROVES,
    AUDITOR,
    BUILDER,
    NOW,
    SIGNS,
    STRANGER,
    VOUCHES,
    key,
    trust,
)

RECIPE = Recipe("task_dataset", "tenants/acme/support", {"sources": "a" * 64}, {"data": 1}, "acme.support")


def build(attempt: Attempt) -> dict[str, Any]:
    (attempt.payload / "rows.txt").write_text("rows")
    (attempt.evidence / "log.txt").write_text("log")
    return {"rows": 1}


def envelopes(store: Store) -> list[str]:
    return [file.path for file in store.walk() if "/signatures/" in file.path]


def test_what_is_made_is_signed_before_it_stands_and_read_by_public_keys_alone(
    any_store: Store, tmp_path: Path
) -> None:
    any_store.trust = trust()
    made = make_artifact(any_store, tmp_path, RECIPE, build)
    [path] = envelopes(any_store)
    assert path.startswith(f"tenants/acme/support/signatures/{made.manifest}.")
    envelope = Envelope.from_dict(json.loads(any_store.read(path)))
    assert envelope.payload == any_store.read(made.manifest_path)
    assert envelope.verify([BUILDER.public], 1)
    any_store.trust = trust(None)
    found = find_artifact(any_store, RECIPE.place)
    assert found is not None
    assert found.digest == made.digest


def forge(store: Store, change: Callable[[dict[str, Any]], None], signer: Signer | None = None) -> None:
    """As who may write the store and has no key that counts."""
    path = RECIPE.place.manifest
    said = json.loads(store.read(path))
    change(said)
    content = json.dumps(said).encode()
    store.write(path, content)
    if signer is not None:
        store.trust = trust(signer, signer.key, unsigned="accepted")
        sign(store, RECIPE.prefix, content, MANIFEST)


def other_figures(said: dict[str, Any]) -> None:
    said["predicate"]["figures"] = {"rows": 2}


def test_a_manifest_that_was_rewritten_is_refused(any_store: Store, tmp_path: Path) -> None:
    any_store.trust = trust()
    make_artifact(any_store, tmp_path, RECIPE, build)
    forge(any_store, other_figures)
    with pytest.raises(UserError, match=r"nobody whom trust\.yaml trusts signed this"):
        find_artifact(any_store, RECIPE.place)


def test_the_signature_of_a_stranger_under_a_trusted_name_is_none(store: Store, tmp_path: Path) -> None:
    store.trust = trust()
    make_artifact(store, tmp_path, RECIPE, build)
    [genuine] = envelopes(store)
    forge(store, other_figures, STRANGER)
    store.trust = trust()
    strangers = next(path for path in envelopes(store) if path != genuine)
    store.write(strangers.replace(STRANGER.key.id, BUILDER.id), store.read(strangers))
    content = store.read(strangers).replace(STRANGER.key.id.encode(), BUILDER.id.encode())
    store.write(strangers.replace(STRANGER.key.id, BUILDER.id), content)
    with pytest.raises(UserError, match="nobody"):
        find_artifact(store, RECIPE.place)


@pytest.mark.parametrize(
    "keys",
    [
        (replace(BUILDER, revoked=True), AUDITOR),
        (replace(BUILDER, ends=NOW - timedelta(hours=1)), AUDITOR),
        (replace(BUILDER, begins=NOW + timedelta(days=1)), AUDITOR),
        (replace(BUILDER, role="approver", person="bob"), AUDITOR),
        (AUDITOR,),
    ],
    ids=["revoked", "ended before", "begins later", "an approver's", "not listed"],
)
def test_a_signature_does_not_count_by_a_key_that_is(
    store: Store, tmp_path: Path, keys: tuple[TrustedKey, ...]
) -> None:
    store.trust = trust()
    make_artifact(store, tmp_path, RECIPE, build)
    store.trust = trust(None, *keys)
    with pytest.raises(UserError, match="nobody"):
        find_artifact(store, RECIPE.place)


@pytest.mark.parametrize(("signer", "has"), [(None, "no key"), (APPROVES, "the key of an approver")])
def test_nothing_is_built_that_would_not_count(
    store: Store, tmp_path: Path, signer: Signer | None, has: str
) -> None:
    store.trust = trust(signer)
    with pytest.raises(UserError, match=f"needs a builder's signature, and this process has {has}"):
        make_artifact(store, tmp_path, RECIPE, lambda attempt: pytest.fail("it was built"))


def test_a_key_does_not_sign_before_its_first_day(store: Store, tmp_path: Path) -> None:
    later, signer = key("later")
    signer.key = replace(later, begins=NOW + timedelta(days=2))
    store.trust = trust(signer)
    with pytest.raises(UserError, match=r"the key later may not sign at .* Look at this host's clock"):
        make_artifact(store, tmp_path, RECIPE, build)
    store.trust = trust()
    assert find_artifact(store, RECIPE.place) is None


def test_a_tombstone_that_nobody_signed_hides_nothing(store: Store, tmp_path: Path) -> None:
    store.trust = trust()
    made = make_artifact(store, tmp_path, RECIPE, build)
    manifest = store.read(made.manifest_path)
    assert claim_removal(store, made, "nothing needed it", NOW.timestamp() + 9)
    finish_removal(store, made)
    assert find_artifact(store, RECIPE.place) is None  # by a tombstone that is signed
    said = json.loads(store.read(made.manifest_path))
    said["removed"]["why"] = "somebody else's reason"
    assert said["manifest"] == manifest.decode()
    store.write(made.manifest_path, json.dumps(said).encode())
    with pytest.raises(UserError, match="nobody"):
        find_artifact(store, RECIPE.place)


def test_a_removal_that_nobody_signed_is_not_finished_by_who_has_a_key(
    any_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    any_store.trust = trust()
    made = make_artifact(any_store, tmp_path, RECIPE, build)
    monkeypatch.setattr(time, "time", lambda: now() + 10 * DAY)
    claim = f"{made.place.path}/claims/{made.predicate['attempt']}/000001.json"
    said = {"schema_version": 1, "claim": "removed", "at": NOW.isoformat(), "why": "old"}
    any_store.write(claim, json.dumps(said).encode())
    for ask in (
        lambda: keep(any_store, made),
        lambda: make_artifact(any_store, tmp_path, RECIPE, build),
        lambda: claim_removal(any_store, made, "old", now()),
        lambda: finish_removal(any_store, made),
    ):
        with pytest.raises(UserError, match=r"000001\.json: nobody whom trust\.yaml trusts signed this"):
            ask()
    assert find_artifact(any_store, RECIPE.place) is not None

    any_store.remove([claim])
    assert claim_removal(any_store, made, "old", now() + DAY)
    assert not keep(any_store, made)
    signed = any_store.read(claim)
    other = make_artifact(any_store, tmp_path, replace(RECIPE, spec={"data": 2}), build)
    elsewhere = f"{other.place.path}/claims/{other.predicate['attempt']}/000001.json"
    monkeypatch.setattr(time, "time", lambda: now() + 30 * DAY)
    any_store.write(elsewhere, signed)
    with pytest.raises(UserError, match="a claim of another artifact's removal"):
        keep(any_store, other)
    finish_removal(any_store, made)
    assert find_artifact(any_store, RECIPE.place) is None
    [gone] = generations(any_store, RECIPE.place)
    assert isinstance(gone, Removed)
    check_tombstone(any_store, gone)


def test_what_is_no_signature_takes_nothing_from_one_beside_it() -> None:
    content = b"{}"
    said = json.loads(SIGNS.envelope(content, MANIFEST))
    [own] = said["signatures"]
    for key_id in (AUDITOR.id, "0" * 64):
        beside = json.dumps({**said, "signatures": [own, {**own, "keyid": key_id}]}).encode()
        assert trust().signers(content, MANIFEST, NOW, [beside]) == (BUILDER,)


@pytest.fixture
def history(any_store: Store, tmp_path: Path) -> Store:
    """What was made before there was a key."""
    make_artifact(any_store, tmp_path, RECIPE, build)
    return any_store


def test_an_auditor_signs_what_stood_before_and_nobody_else(history: Store) -> None:
    history.trust = trust(None)
    with pytest.raises(UserError, match="nobody"):
        find_artifact(history, RECIPE.place)
    history.trust = trust(SIGNS)
    with pytest.raises(UserError, match="only an auditor vouches"):
        list(sign_history(history))
    since_now = replace(AUDITOR, begins=datetime.now(UTC))  # after that was made
    history.trust = trust(Signer(since_now, VOUCHES._signer), BUILDER, since_now)
    assert [one.path for one in sign_history(history)] == [RECIPE.place.manifest]
    assert list(sign_history(history)) == []
    history.trust = trust(None, since_now)
    assert find_artifact(history, RECIPE.place) is not None
    assert list(unsigned(history)) == []


def test_an_auditor_signs_the_erasure_logs_of_before_too(store: Store) -> None:
    append(store, "acme", lambda _: ErasureEntry(REQUEST, "r1", "acme", "ann", "art. 17", due="2099-12-31"))
    store.trust = trust(None)
    with pytest.raises(UserError, match=r"erasures/acme/000001\.json: nobody"):
        read_erasures(store, "acme")
    store.trust = trust(None, unsigned="accepted")
    assert [one.path for one in unsigned(store)] == ["erasures/acme/000001.json"]
    assert list(unsigned(store, "other")) == []
    store.trust = trust(VOUCHES)
    assert [one.path for one in sign_history(store, "acme")] == ["erasures/acme/000001.json"]
    store.trust = trust(None)
    assert [one.request for one in read_erasures(store, "acme")] == ["r1"]


def test_a_copy_takes_the_signatures_along(store: Store, tmp_path: Path) -> None:
    store.trust = trust()
    made = make_artifact(store, tmp_path, RECIPE, build)
    target, rules = Store(str(tmp_path / "copy")), Rules(lambda tenant: Retention(), time.time())
    target.trust = trust(None)
    assert all(one.how == "copied" for one in copy_store(store, target, tmp_path / "drafts", rules))
    found = find_artifact(target, RECIPE.place)
    assert found is not None
    assert found.manifest == made.manifest


def test_a_key_that_may_not_sign_now_is_refused_before_anything_is_built(
    store: Store, tmp_path: Path
) -> None:
    ended = replace(BUILDER, ends=NOW - timedelta(hours=1))
    store.trust = trust(Signer(ended, SIGNS._signer), ended)
    with pytest.raises(UserError, match="the key builder may not sign at"):
        make_artifact(store, tmp_path, RECIPE, lambda attempt: pytest.fail("it was built"))


def test_what_the_stores_writer_put_in_place_of_a_signature_is_written_over(history: Store) -> None:
    history.trust = trust(VOUCHES)
    [_] = sign_history(history)
    [path] = envelopes(history)
    for junk in (b"{}", b"[" * 100_000):
        history.write(path, junk)
        history.trust = trust(VOUCHES)
        with pytest.raises(UserError, match="nobody"):
            find_artifact(history, RECIPE.place)
        history.trust = trust(VOUCHES)
        assert len([*sign_history(history)]) == 1
        history.trust = trust(None)
        assert find_artifact(history, RECIPE.place) is not None


def test_a_folder_in_place_of_a_signature_is_one_error(store: Store, tmp_path: Path) -> None:
    store.trust = trust()
    make_artifact(store, tmp_path, RECIPE, build)
    [path] = envelopes(store)
    (Path(store.root) / path).unlink()
    (Path(store.root) / path).mkdir()
    store.trust = trust()
    with pytest.raises(UserError, match="nobody"):
        find_artifact(store, RECIPE.place)
    with pytest.raises(UserError, match="a folder stands where a signature has to be"):
        sign(store, RECIPE.place.prefix, store.read(RECIPE.place.manifest), MANIFEST)


def folder_there(file: Path) -> None:
    file.unlink()
    file.mkdir()


def fifo_there(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("put", [folder_there, fifo_there])
def test_what_is_no_file_takes_nothing_from_a_signature_beside_it(
    store: Store, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    """And where none is beside it, the manifest is one that nobody signed; nothing waits for a FIFO."""
    store.trust = trust()
    made = make_artifact(store, tmp_path, RECIPE, build)
    own = present(store.local(envelopes(store)[0]))
    store.trust = trust(VOUCHES)
    sign(store, RECIPE.place.prefix, store.read(made.manifest_path), MANIFEST)
    put(own)
    store.trust = trust(None)
    assert present(find_artifact(store, RECIPE.place)).digest == made.digest
    store.remove([path for path in envelopes(store) if AUDITOR.id in path])
    store.trust = trust(None)
    with pytest.raises(UserError, match="nobody whom"):
        find_artifact(store, RECIPE.place)


def test_a_file_in_place_of_the_folder_of_signatures_is_none(store: Store, tmp_path: Path) -> None:
    store.trust = trust()
    make_artifact(store, tmp_path, RECIPE, build)
    folder = present(store.local(envelopes(store)[0])).parent
    shutil.rmtree(folder)
    folder.write_text("")
    store.trust = trust(None)
    with pytest.raises(UserError, match="nobody whom"):
        find_artifact(store, RECIPE.place)
