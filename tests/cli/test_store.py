"""`ft-dagster store du` and `store gc --dry-run`, on the store of an earlier version."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError

OLD_PROJECT = Path(__file__).resolve().parents[1] / "compat" / "store_0_1"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    return shutil.copytree(OLD_PROJECT, tmp_path / "project")


def typed(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), "store", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


def files(project: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in (project / "store").rglob("*") if path.is_file()}


@pytest.mark.parametrize("by", ["tenant", "variant", "stage"])
def test_du_shows_what_raised_stage_versions_left(project: Path, by: str) -> None:
    told = typed(project, "du", "--by", by, "--json")
    rows = {row["name"]: row for row in told["rows"]}
    assert sum(row["bytes"] for row in rows.values()) == sum(files(project).values())
    assert told["damaged"] == []
    name = {"tenant": "acme", "variant": "acme.places", "stage": "evaluation"}[by]
    assert 0 < rows[name]["older_versions"] <= rows[name]["bytes"]
    assert name in typed(project, "du", "--by", by)


def test_du_names_what_is_damaged(project: Path) -> None:
    manifest = next(path for path in files(project) if path.name == "manifest.json")
    manifest.write_text("{")
    (damaged,) = typed(project, "du", "--json")["damaged"]
    assert str(manifest.relative_to(project)) in damaged


def test_gc_names_what_nothing_needs_and_removes_nothing(project: Path) -> None:
    before = files(project)
    nothing_lost = {
        one["place"] for one in typed(project, "gc", "--dry-run", "--older-than", "0", "--json")["unreached"]
    }
    for head in (project / "store/tenants/globex/places/heads").glob("*.json"):
        head.unlink()
    shutil.rmtree(project / "store/tenants/globex/places/releases")
    told = typed(project, "gc", "--dry-run", "--older-than", "0", "--json")
    lost = {one["place"] for one in told["unreached"]} - nothing_lost
    assert {place.split("/")[1] for place in lost if not place.startswith("shared/")} == {"globex"}
    assert {place.split("/")[3] for place in lost if "/globex/" in place} >= {"model_export", "evaluation"}
    assert told["bytes"] == sum(one["bytes"] for one in told["unreached"]) > 0
    assert "nothing was removed" in typed(project, "gc", "--dry-run", "--older-than", "0")
    gone = {path for path in before if path not in files(project)}
    assert all("globex/places" in str(path) for path in gone)  # what this test removed


def test_gc_leaves_alone_what_is_young(project: Path) -> None:
    for path in files(project):
        path.touch()
    assert typed(project, "gc", "--dry-run", "--json") == {"unreached": [], "bytes": 0}


def test_gc_without_a_dry_run_is_refused(project: Path) -> None:
    before = files(project)
    with pytest.raises(UserError, match="nothing is removed yet"):
        CliRunner().invoke(app, ["--project", str(project), "store", "gc"], catch_exceptions=False)
    assert files(project) == before


KEY = "a" * 64
STRANGE = {
    "a manifest nested beyond all depth": (
        f"tenants/acme/places/evaluation/{KEY}/manifest.json".encode(),
        b"[" * 100_000,
    ),
    "a head nested beyond all depth": (b"tenants/acme/places/heads/other.json", b"[" * 100_000),
    "a name of no encoding": (b"tenants/\xff\xfe/x/y", b"1"),
    "an attempt's name of no encoding": (
        b"tenants/a/b/evaluation/" + KEY.encode() + b"/\xff/payload/x",
        b"1",
    ),
    "a file in a folder's place": (b"tenants", b"1"),
    "a name that clears the screen": (b"tenants/\x1b[2Ja/x/y", b"1"),
    "a name in markup": (f"tenants/[red]a/[/]b/evaluation/{KEY}/t/payload/x".encode(), b"1"),
}
COMMANDS = {
    "du": ("du", "--by", "variant"),
    "du in JSON": ("du", "--json"),
    "gc": ("gc", "--dry-run", "--older-than", "0"),
    "gc in JSON": ("gc", "--dry-run", "--older-than", "0", "--json"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_file_of_one_tenant_takes_the_commands_from_nobody(
    tmp_path: Path, strange: str, command: tuple[str, ...]
) -> None:
    (tmp_path / "ft_dagster.yaml").write_text("{}")
    (tmp_path / "tenants").mkdir()
    name, content = STRANGE[strange]
    file = Path(os.fsdecode(os.fsencode(tmp_path / ".ft_dagster/store") + b"/" + name))
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    done = CliRunner().invoke(app, ["--project", str(tmp_path), "store", *command])
    assert done.exception is None or isinstance(done.exception, UserError), done.exception
    assert command[0] == "gc" or done.exit_code == 0
    assert "\x1b[2J" not in done.output
