"""With signatures asked for, nothing that the store's writer put there reaches a published model, a report or
the catalogue: the command refuses it, or says what it said before; and `audit verify` names it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import PROMOTE, ReleaseEntry
from ft_dagster.lineage.log import entry_path
from ft_dagster.lineage.log_files import HEAD
from ft_dagster.settings import load_settings
from ft_dagster.store import Store
from ft_dagster.store.blobs import as_stored
from tests.long import mostly_long
from tests.security.pretend import KEY
from tests.security.served_story import PROMOTE as APPROVED
from tests.security.served_story import story, typed
from tests.security.signed_story import by, verified, with_keys

__all__ = ["story"]
pytestmark = pytest.mark.slow
MARK = "EVE-WAS-HERE"
COMMANDS = (
    ("publish", str(KEY), "--folder", "{out}/published"),
    ("catalogue", "--to", "{out}/catalogue"),
    ("report", str(KEY), "--version", "3", "--to", "{out}/report.html"),
    ("history", str(KEY)),
    ("status",),
)


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patched:
        yield patched


@pytest.fixture(scope="module")
def signed(story: Path, tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """A project of which an auditor signed all that stood, and ann version 3."""
    at = tmp_path_factory.mktemp("signed")
    project = shutil.copytree(story, at / "project")
    patch.setenv("DAGSTER_HOME", str(at / "home"))
    patch.setenv("FT_DAGSTER_PROJECT", str(project))
    by(patch, with_keys(project, patch), "ann")
    typed(project, *APPROVED)
    return project


def only(store: Store, stage: str, name: str, attempt: str = "") -> str:
    """The file of this name of the artifact of a stage on which version 3 stands."""
    entry = json.loads(store.read(entry_path(KEY.prefix, 3)))
    digest = {"model_export": "export", "evaluation": "evaluation", "fine_tuned_model": "weights"}[stage]
    for file in store.walk():
        within = file.path.startswith(f"{KEY.prefix}/{stage}/") and file.path.endswith("/manifest.json")
        if within and json.loads(store.read(file.path))["predicate"]["digest"] == entry[digest]:
            said = json.loads(store.read(file.path))["predicate"]
            folder = file.path.rpartition("/")[0]
            return file.path if name == "manifest.json" else f"{folder}/{said['attempt']}/{name}"
    raise AssertionError(stage)


def bytes_of(stage: str, name: str) -> Callable[[Store], None]:
    """The file's end is the mark."""

    def attack(store: Store) -> None:
        path = only(store, stage, name)
        content = store.read(path) if store.exists(path) else b""
        store.write(path, content[: -len(MARK)] + MARK.encode())

    return attack


def manifest_of(stage: str) -> Callable[[Store], None]:
    def attack(store: Store) -> None:
        path = only(store, stage, "manifest.json")
        said = json.loads(store.read(path))
        said["predicate"]["figures"][MARK] = MARK
        store.write(path, as_stored(said))

    return attack


def card_that_fits(store: Store) -> None:
    """The export's card, and a manifest that lists it as it is."""
    path = only(store, "model_export", "evidence/README.md")
    content = f"| weights | {MARK} |\n".encode()
    manifest = only(store, "model_export", "manifest.json")
    said = json.loads(store.read(manifest))
    for file in said["predicate"]["evidence"]:
        if file["path"] == "README.md":
            file.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    store.write(path, content)
    store.write(manifest, as_stored(said))


def entry(change: Callable[[ReleaseEntry], dict[str, Any]], *, more: bool) -> Callable[[Store], None]:
    """The newest entry of the log is another, or there is one `more`; the head holds it."""

    def attack(store: Store) -> None:
        folder = f"{KEY.prefix}/releases"
        number = json.loads(store.read(f"{folder}/{HEAD}"))["entries"]
        newest = store.read(entry_path(KEY.prefix, number))
        said = {**json.loads(newest), "reason": MARK, **change(ReleaseEntry.from_json(json.loads(newest)))}
        if more:
            number, said["previous"] = number + 1, hashlib.sha256(newest).hexdigest()
        content = as_stored(said)
        store.write(entry_path(KEY.prefix, number), content)
        head = {"schema_version": 1, "entries": number, "sha256": hashlib.sha256(content).hexdigest()}
        store.write(f"{folder}/{HEAD}", as_stored(head))

    return attack


ATTACKS: dict[str, Callable[[Store], None]] = {
    "weights": bytes_of("model_export", "payload/adapter_model.safetensors"),
    "a file beside weights": bytes_of("model_export", f"payload/{MARK}.py"),
    "a signature beside weights": bytes_of("model_export", "payload/model.sig"),
    "a card": bytes_of("model_export", "evidence/README.md"),
    "a card that fits": card_that_fits,
    "a certificate": bytes_of("model_export", "evidence/certificate.json"),
    "an export's manifest": manifest_of("model_export"),
    "an evaluation's manifest": manifest_of("evaluation"),
    "scores": bytes_of("evaluation", "payload/scores.parquet"),
    "a training's log": bytes_of("fine_tuned_model", "evidence/log.jsonl"),
    "weights' manifest": manifest_of("fine_tuned_model"),
    "an entry changed": entry(lambda newest: {}, more=False),
    "an entry more": entry(lambda newest: newest.then(PROMOTE, newest.version).to_json(), more=True),
}


def told(project: Path, out: Path) -> dict[str, str]:
    """What each command says and writes; of one that refuses, nothing."""
    found = {}
    for words in COMMANDS:
        asked = [word.format(out=out) for word in words]
        done = CliRunner().invoke(app, ["--project", str(project), *asked])
        assert done.exception is None or isinstance(done.exception, UserError | SystemExit), done.exception
        found[words[0]] = done.output if done.exit_code == 0 else ""
    files = (file for file in sorted(out.rglob("*")) if file.is_file())
    return found | {f"./{file.relative_to(out)}": file.read_bytes().decode("latin-1") for file in files}


def test_without_an_attack_all_is_told(signed: Path, tmp_path: Path) -> None:
    found = told(signed, tmp_path)
    assert all(found[words[0]] for words in COMMANDS)
    assert found["./published/adapter_model.safetensors"]
    assert any(name.startswith("./catalogue/") for name in found)
    assert found["./report.html"]


@pytest.mark.parametrize("name", mostly_long(ATTACKS, every=4))
def test_what_nobody_signed_reaches_nobody(signed: Path, tmp_path: Path, name: str) -> None:
    store = load_settings(signed).open_store()
    kept = {file.path: store.read(file.path) for file in store.walk()}
    before = verified(signed)
    try:
        ATTACKS[name](store)
        found = told(signed, tmp_path)
        assert [where for where, text in found.items() if MARK in text or MARK in where] == []
        assert set(verified(signed).splitlines()) - set(before.splitlines())
    finally:
        store.remove({file.path for file in store.walk()} - kept.keys())
        for path, content in kept.items():
            if store.read(path) != content:
                store.write(path, content)
