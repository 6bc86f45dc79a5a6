"""Keys for the variant with three versions, and what a check says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from tests.security.served_story import typed


@pytest.fixture
def keys(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `with_keys`."""
    return with_keys(project, monkeypatch)


def with_keys(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A builder, an auditor who signed the history, and ann; the builder signs here. The keys' folder."""
    folder = project / ".ft_dagster/keys/signing"
    typed(project, "trust", "new-key", "ours")
    for more in (["books", "--role", "auditor"], ["ann", "--role", "approver", "--person", "ann"]):
        entry = (
            typed(project, "trust", "new-key", *more).partition("version:\n")[2].rpartition("The private")[0]
        )
        with (project / "trust.yaml").open("a") as file:
            file.write(entry)
    by(monkeypatch, folder, "books")
    assert "Signed" in typed(project, "trust", "sign", "--yes")
    root = project / "trust.yaml"
    root.write_text(root.read_text().replace("accepted  # or: refused", "refused"))
    by(monkeypatch, folder, "ours")
    return folder


def by(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> None:
    monkeypatch.setenv("FT_DAGSTER_SIGNING_KEY", str(folder / f"{name}.pem"))


def verified(project: Path) -> str:
    """What a check says; of pretended trainings it misses the ledger."""
    return CliRunner().invoke(app, ["--project", str(project), "audit", "verify", "--all"]).output
