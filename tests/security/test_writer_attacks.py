"""Attacks of who may write the bucket and has no key, on what the table of docs/security.md lists, on a
folder and on S3: each is refused, or named by `audit verify`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.store import Store
from ft_dagster.store.blobs import as_stored
from tests.audit.histories import History, question
from tests.long import mostly_long
from tests.s3_server import S3Server
from tests.security.writer_site import NOBODY, Attack, Site, flipped, only, removed, rewritten, signatures

pytestmark = pytest.mark.slow
ONE = "tenants/acme/one"
DATASET, MIXTURE, WEIGHTS = f"{ONE}/task_dataset/", f"{ONE}/training_mixture/", f"{ONE}/fine_tuned_model/"


def signed_history(made: History, patch: pytest.MonkeyPatch, index: Path) -> Site:
    done = CliRunner().invoke(app, ["--project", str(made.folder), "trust", "new-key", "ours"])
    assert done.exit_code == 0, done.output
    root = made.folder / "trust.yaml"
    root.write_text(root.read_text().replace("accepted  # or: refused", "refused"))
    patch.setenv("FT_DAGSTER_SIGNING_KEY", str(made.folder / ".ft_dagster/keys/signing/ours.pem"))
    base = made.base()
    dataset = made.dataset("acme.one", [question(number) for number in range(20)])
    weights = made.model("acme.one", made.mixture("acme.one", dataset), base)
    made.release("acme.one", weights, base)
    found = Site(made, {}, index)
    assert found.said() == []
    shutil.copytree(found.known, index)
    store = made.store
    found.kept.update({file.path: store.read(file.path) for file in store.walk()})
    return found


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patched:
        yield patched


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Site:
    at = tmp_path_factory.mktemp("attacked")
    return signed_history(History(at / "project"), patch, at / "index")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch, s3_server: S3Server) -> Site:
    at = tmp_path_factory.mktemp("attacked")
    made = History(at / "project")
    said = {"store": f"s3://{s3_server.bucket}/attacked", "store_options": s3_server.options}
    (made.folder / "ft_dagster.yaml").write_text(json.dumps(said), "utf-8")
    return signed_history(made, patch, at / "index")


def swapped(store: Store) -> None:
    """The mixture's tree in place of the data set's."""
    store.write(
        only(store, DATASET, "/tree.parquet"),
        store.read(only(store, MIXTURE, "/tree.parquet"))[:-4] + b"PAR?",
    )


def under_key(name: str) -> Attack:
    def attack(store: Store) -> None:
        key = only(store, DATASET, "/manifest.json").removesuffix("/manifest.json")
        store.write(f"{key}/{name}", b"{}")

    return attack


def beside_weights(store: Store) -> None:
    path = only(store, WEIGHTS, "/adapter_model.safetensors")
    store.write(path.replace("adapter_model", "more"), b"more")


def tombstone(store: Store) -> None:
    path = only(store, WEIGHTS, "/manifest.json")
    said = {"at": "2026-01-01T00:00:00.000+00:00", "why": "nobody needs it"}
    content = {"schema_version": 1, "removed": said, "manifest": store.read(path).decode()}
    store.write(path, as_stored(content))


def another_entry(store: Store) -> None:
    newest = json.loads(store.read(f"{ONE}/releases/000001.json"))
    store.write(f"{ONE}/releases/000002.json", as_stored({**newest, "version": 2}))


def log_cut(store: Store) -> None:
    store.remove([f"{ONE}/releases/000001.json", f"{ONE}/releases/head.json"])


def of_other_statements(store: Store) -> None:
    paths = signatures(store)
    contents = [store.read(path) for path in paths]
    for path, content in zip(paths, (*contents[1:], contents[0]), strict=True):
        store.write(path, content)


def amendment(**other: Any) -> Attack:
    """Of the data set's rows, which are then other ones."""

    def attack(store: Store) -> None:
        manifest = only(store, DATASET, "/manifest.json")
        rows = only(store, DATASET, "/rows.parquet")
        change = {"path": "evidence/rows.parquet", "before": "0" * 64, "after": "1" * 64, "size": 1}
        said = {"schema_version": 1, "kind": "identities removed", "manifest": "2" * 64, "changes": [change]}
        key = manifest.removesuffix("/manifest.json")
        store.write(f"{key}/amendments/000001.json", as_stored({**said, "at": "2026-01-01", **other}))
        store.write(rows, b"other rows")

    return attack


def figures(said: dict[str, Any]) -> None:
    said["predicate"]["figures"]["rows"] = {"train": 1}


ATTACKS: dict[str, tuple[Attack, str]] = {
    "figures of a manifest": (rewritten(DATASET, "/manifest.json", figures), "manifest.json"),
    "a manifest deleted": (removed(WEIGHTS, "/manifest.json"), "manifest"),
    "a manifest that is none": (lambda s: s.write(only(s, DATASET, "/manifest.json"), b"{"), "not JSON"),
    "a byte of rows": (flipped(DATASET, "/payload/train.parquet"), "other bytes"),
    "a byte of weights": (flipped(WEIGHTS, "/adapter_model.safetensors"), "other bytes"),
    "rows deleted": (removed(DATASET, "/payload/train.parquet"), "is missing"),
    "a file beside weights": (beside_weights, "does not list"),
    "a byte of evidence": (flipped(DATASET, "/evidence/rows.parquet"), "other bytes"),
    "a tree of others": (swapped, "tree.parquet"),
    "a ledger": (flipped(WEIGHTS, "/ledger.json"), "other bytes"),
    "a removal that nobody decided": (tombstone, NOBODY),
    "all signatures deleted": (lambda s: s.remove(signatures(s)), NOBODY),
    "signatures of other statements": (of_other_statements, NOBODY),
    "an entry of the log": (
        rewritten(f"{ONE}/releases/000001", "json", lambda e: e.update(by="eve")),
        "releases",
    ),
    "an entry more": (another_entry, "000002.json"),
    "the log cut": (log_cut, "taken out of this release log"),
    "a head": (rewritten(f"{ONE}/heads/training_mixture", "json", lambda h: h.update(key="0" * 64)), "heads"),
    "a head that is none": (lambda s: s.write(f"{ONE}/heads/training_mixture.json", b"x"), "not a head"),
    "a head deleted": (removed(f"{ONE}/heads/training_mixture", "json"), "no head points at"),
    "an amendment": (amendment(), "amendments/000001.json"),
    "an amendment of a payload": (
        amendment(changes=[{"path": "payload/train.parquet", "before": "", "after": "", "size": 1}]),
        "not an amendment",
    ),
    "a file under a key": (under_key("more.json"), "nobody wrote it there"),
}


def refused_or_named(site: Site, name: str) -> None:
    attack, word = ATTACKS[name]
    try:
        attack(site.made.store)
        assert any(word in line for line in site.said()), site.said()
    finally:
        site.restore()
    assert site.said() == []


def test_there_are_twenty() -> None:
    assert len(ATTACKS) >= 20


@pytest.mark.parametrize("name", mostly_long(ATTACKS, every=4))
def test_what_the_writer_of_a_folder_does_is_refused_or_named(folder: Site, name: str) -> None:
    refused_or_named(folder, name)


@pytest.mark.parametrize("name", mostly_long(ATTACKS, every=11))
def test_what_the_writer_of_a_bucket_does_is_refused_or_named(bucket: Site, name: str) -> None:
    refused_or_named(bucket, name)


def test_signatures_that_a_host_remembers_do_not_stand_for_those_that_lie_there(bucket: Site) -> None:
    store = bucket.made.store
    try:
        store.remove(signatures(store))
        named = [line for line in bucket.said(cached=True) if NOBODY in line]
        assert any(DATASET in line for line in named)
        assert any("releases/000001.json" in line for line in named)
    finally:
        bucket.restore()
