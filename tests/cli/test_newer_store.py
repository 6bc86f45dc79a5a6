"""A store that a later version has written to: every command ends, at the worst in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.schema_version import stored_as
from ft_dagster.store import Store, artifacts, transfer
from ft_dagster.store.transfer import Transfer
from ft_dagster.training.contract import Plan
from tests.kept_project import OLD_PROJECT
from tests.long import mostly_long

pytestmark = pytest.mark.slow

KINDS = (
    *("declaration.json", "verdict.json", "scores.json", "ledger.json", "dataset.json", "mixture.json"),
    *("plan.json", "estimate.json", "certificate.json", "manifest.json", "log.jsonl", "releases/*.json"),
    *("heads/*.json", "origins.json", "corpus.json", "base.json"),
)
COMMANDS = (
    *(["status"], ["history", "acme.places"], ["compare", "acme.places"], ["report", "acme.places"]),
    *(["report", "--fleet"], ["trace", "acme.places"], ["rollback", "acme.places", "1"]),
    *(["store", "du"], ["store", "gc", "--dry-run"]),
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newer") / "project"
    shutil.copytree(OLD_PROJECT, folder)
    return folder


@pytest.fixture
def as_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the changed files no digest is asked: a newer version wrote them with their own."""

    def fetch(store: Store, file: Transfer, drafts: Path) -> None:
        file.local.parent.mkdir(parents=True, exist_ok=True)
        store.download(file.stored, file.local)

    monkeypatch.setattr(transfer, "fetch", fetch)
    monkeypatch.setattr(artifacts, "_check_folder", lambda *args, **kwargs: None)
    monkeypatch.setattr(artifacts, "_read", lambda store, made, name: store.read(f"{made.path}/{name}"))


@pytest.fixture
def changed(project: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """The files of a kind with a field that nobody knows, in every object of theirs."""
    before = {file: file.read_bytes() for file in (project / "store").rglob(request.param)}
    for file, content in before.items():
        lines = content.decode().splitlines() if file.suffix == ".jsonl" else [content.decode()]
        file.write_text("".join(json.dumps(with_more(json.loads(line))) + "\n" for line in lines))
    yield len(before)
    for file, content in before.items():
        file.write_bytes(content)


def with_more(content: Any) -> Any:
    if isinstance(content, dict):
        return {**{name: with_more(value) for name, value in content.items()}, "of_tomorrow": 1}
    return [with_more(each) for each in content] if isinstance(content, list) else content


@pytest.mark.usefixtures("as_made")
@pytest.mark.parametrize("changed", mostly_long(KINDS, every=4), indirect=True)
def test_older_code_ends_in_one_line_on_a_newer_store(
    project: Path, changed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert changed
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        done = CliRunner().invoke(app, ["--project", str(project), *command])
        said = done.exception
        assert said is None or isinstance(said, UserError | SystemExit), (command, said)
        assert not isinstance(said, UserError) or "\n" not in str(said), command


@pytest.mark.usefixtures("as_made", "changed")
@pytest.mark.parametrize(
    ("changed", "file"),
    [(each, each) for each in ("declaration.json", "estimate.json")],
    indirect=["changed"],
)
def test_what_a_newer_version_wrote_is_named(
    project: Path, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = ["--project", str(project), "report", "acme.places"]
    with pytest.raises(UserError, match="newer ft-dagster") as caught:
        CliRunner().invoke(app, report, catch_exceptions=False)
    assert "of_tomorrow" in str(caught.value)
    assert file in str(caught.value)


def test_a_plan_of_a_newer_version_is_named() -> None:
    """Its key may be of today: keys leave out a later field at its default."""
    file = next((OLD_PROJECT / "store").rglob("payload/plan.json"))
    content = json.loads(file.read_text("utf-8"))
    assert stored_as(Plan, content).training.learning_rate
    newer = {**content["training"], "of_tomorrow": 1}
    with pytest.raises(UserError, match=r"training\.of_tomorrow: written by a newer ft-dagster"):
        stored_as(Plan, {**content, "training": newer}, file=file)
