"""`ft-dagster store du` and `store gc`, on the store of an earlier version."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.settings import STORAGE_USD_PER_GB_MONTH, load_settings
from ft_dagster.store import Store
from ft_dagster.training.kept_base import KEPT_BASES, base_kept_or_made
from ft_dagster.training.methods.base import load_base
from ft_dagster.training.watch.first_look import FIRST_LOOKS, FirstLooks
from tests.kept_project import answer, copied_project
from tests.long import mostly_long

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied_project(tmp_path, monkeypatch)


def typed(project: Path, *words: str) -> Any:
    return answer(project, "store", *words)


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


def test_du_says_what_a_month_costs_where_a_price_is_known(project: Path) -> None:
    told = typed(project, "du", "--json")
    assert told["usd_per_gb_month"] is None
    assert {row["usd_per_month"] for row in told["rows"]} == {None}
    assert "$" not in typed(project, "du")
    settings = project / "ft_dagster.yaml"
    settings.write_text(settings.read_text("utf-8") + "storage_usd_per_gb_month: 1000\n")
    told = typed(project, "du", "--json")
    total = sum(row["bytes"] for row in told["rows"])
    assert sum(row["usd_per_month"] for row in told["rows"]) == pytest.approx(total / 1e6)
    assert f"${total / 1e6:,.2f} a month at $1000 a GB" in typed(project, "du")


def test_a_store_on_s3_has_its_list_price_unless_another_is_declared(project: Path) -> None:
    settings = project / "ft_dagster.yaml"
    settings.write_text("store: s3://bucket/prefix\n")
    assert load_settings(project).storage_price == STORAGE_USD_PER_GB_MONTH
    settings.write_text("store: s3://bucket/prefix\nstorage_usd_per_gb_month: 0.01\n")
    assert load_settings(project).storage_price == 0.01


def test_du_names_what_is_damaged(project: Path) -> None:
    manifest = next(path for path in files(project) if path.name == "manifest.json")
    manifest.write_text("{")
    (damaged,) = typed(project, "du", "--json")["damaged"]
    assert str(manifest.relative_to(project)) in damaged


@pytest.mark.long
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
    told = typed(project, "gc", "--json")
    assert told == {
        "dry_run": False,
        "unreached": [],
        "runs": [],
        "first_looks": {"files": 0, "bytes": 0},
        "quantized_bases": {"files": 0, "bytes": 0},
        "bytes": 0,
    }


def age(project: Path, days: float) -> None:
    at = time.time() - days * 86_400
    for path in project.rglob("*"):
        os.utime(path, (at, at))


def lose(project: Path, variant: str) -> None:
    """Let nothing need a variant's artifacts."""
    tenant, name = variant.split(".")
    for folder in ("heads", "releases"):
        shutil.rmtree(project / "store/tenants" / tenant / name / folder)


def test_gc_removes_what_nothing_needs_and_keeps_its_manifests(project: Path) -> None:
    lose(project, "globex.places")
    age(project, 30)
    before = files(project)
    said = typed(project, "gc", "--dry-run", "--json")
    told = typed(project, "gc", "--json")
    assert [one["removed"] for one in told["unreached"]] == [True] * len(said["unreached"])
    assert told["bytes"] == said["bytes"] > 0
    after = files(project)
    gone = {path for path in before if path not in after}
    assert sum(before[path] for path in gone) == told["bytes"]
    assert all({"payload", "evidence"} & set(path.parts) for path in gone)
    assert {str(path) for path in before if path.name == "manifest.json"} <= {str(path) for path in after}
    assert typed(project, "gc", "--json")["unreached"] == []
    assert typed(project, "du", "--json")["damaged"] == []


def test_a_hold_of_one_tenant_keeps_what_is_its(project: Path) -> None:
    lose(project, "globex.places")
    age(project, 30)
    settings = project / "ft_dagster.yaml"
    retention = "retention:\n  days: 10\n  per_tenant:\n    globex: {hold: true}\n"
    settings.write_text(settings.read_text("utf-8") + retention)
    assert not [one for one in typed(project, "gc", "--json")["unreached"] if "/globex/" in one["place"]]
    settings.write_text(settings.read_text("utf-8").replace("hold: true", "days: 40"))
    assert not [one for one in typed(project, "gc", "--json")["unreached"] if "/globex/" in one["place"]]
    settings.write_text(settings.read_text("utf-8").replace("days: 40", "days: 20"))
    assert [one for one in typed(project, "gc", "--json")["unreached"] if "/globex/" in one["place"]]


def test_gc_refuses_hours_in_which_somebody_may_still_be_at_work(project: Path) -> None:
    before = files(project)
    with pytest.raises(UserError, match="--older-than: too short"):
        CliRunner().invoke(
            app, ["--project", str(project), "store", "gc", "--older-than", "23"], catch_exceptions=False
        )
    assert files(project) == before


def test_gc_ends_with_1_where_something_could_not_be_removed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(project, "globex.places")
    age(project, 30)

    def refuse(self: Store, names: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Store, "remove", refuse)
    done = CliRunner().invoke(app, ["--project", str(project), "store", "gc", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    errors = {one["error"] for one in told["unreached"] if one["error"]}
    assert errors == {"[Errno 13] Permission denied"}
    assert not any(one["removed"] for one in told["unreached"])
    assert told["bytes"] == 0


def test_gc_removes_the_checkpoints_that_nobody_goes_on_with(project: Path) -> None:
    (made, *_) = (project / "store/tenants/acme/places/fine_tuned_model").iterdir()
    runs = load_settings(project).work_folder / "runs" / "acme.places"
    for name, days in (
        (f"fine_tuned_model-{made.name[:16]}", 2),
        (f"fine_tuned_model-{'b' * 16}", 2),
        (f"fine_tuned_model-{'c' * 16}", 9),
    ):
        (runs / name / "output").mkdir(parents=True)
        (runs / name / "output" / "optimizer.pt").write_bytes(b"o" * 1000)
        age(runs / name, days)
        age(runs / name / "output", days)
        os.utime(runs / name, (time.time() - days * 86_400,) * 2)
    told = typed(project, "gc", "--json")
    assert {Path(one["folder"]).name for one in told["runs"]} == {
        f"fine_tuned_model-{made.name[:16]}",
        f"fine_tuned_model-{'c' * 16}",
    }
    assert all(one["removed"] and one["bytes"] == 1000 for one in told["runs"])
    assert [path.name for path in runs.iterdir()] == [f"fine_tuned_model-{'b' * 16}"]


def test_first_looks_at_bases_are_shown_and_go_once_no_training_takes_them(project: Path) -> None:
    folder = load_settings(project).cache_folder / FIRST_LOOKS
    looks, week = FirstLooks(folder, {"base": "b" * 64}), 7 * 86_400
    for name in ("left", "taken"):
        looks.write({"loss": name}, 2.5)
    for file in folder.iterdir():
        os.utime(file, (time.time() - week - 60,) * 2)
    assert looks.read({"loss": "taken"}) == 2.5
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert typed(project, "du", "--json")["first_looks"] == {"files": 2, "bytes": size}
    assert "2 first looks at bases" in typed(project, "du")
    settings = project / "ft_dagster.yaml"
    before = settings.read_text("utf-8")
    settings.write_text(before + "retention: {hold: true}\n")
    assert typed(project, "gc", "--json")["first_looks"]["files"] == 0
    settings.write_text(before)
    for dry_run in (["--dry-run"], []):
        assert "1 first look at bases" in typed(project, "gc", *dry_run)
    assert typed(project, "gc", "--json")["first_looks"]["files"] == 0
    assert [looks.read({"loss": name}) for name in ("left", "taken")] == [None, 2.5]


def test_quantized_bases_are_shown_and_go_once_no_training_takes_them(
    project: Path, tiny_model_folder: Path
) -> None:
    folder, week = load_settings(project).cache_folder / KEPT_BASES, 7 * 86_400

    def load(model: Path) -> Any:
        return load_base(model, "fp32")

    for name in ("left", "taken"):
        base_kept_or_made(folder, {"base": name}, lambda: load(tiny_model_folder), load)
    (folder / ".draft-0").mkdir()
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - week - 60,) * 2)
    base_kept_or_made(folder, {"base": "taken"}, lambda: pytest.fail("it is kept"), load)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert typed(project, "du", "--json")["quantized_bases"] == {"files": 3, "bytes": size}
    assert "3 quantized bases" in typed(project, "du")
    for dry_run in (["--dry-run"], []):
        assert "2 quantized bases" in typed(project, "gc", *dry_run)
    assert typed(project, "gc", "--json")["quantized_bases"]["files"] == 0
    (left,) = folder.iterdir()
    assert left.name == sha256_json({"base": "taken"})


def test_copy_copies_a_store_that_the_project_then_works_with(project: Path) -> None:
    target = project / "copy"
    told = typed(project, "copy", str(project / "store"), str(target), "--json")
    assert (told["there"], told["left"]) == (0, [])
    assert told["bytes"] == sum(files(project).values())
    settings = project / "ft_dagster.yaml"
    settings.write_text(settings.read_text("utf-8").replace("store: store", "store: copy"))
    before = typed(project, "du", "--json")
    assert sum(row["bytes"] for row in before["rows"]) == told["bytes"]
    again = typed(project, "copy", str(project / "store"), str(target), "--json")
    assert (again["copied"], again["bytes"]) == (0, 0)
    assert "0 copied and read back" in typed(project, "copy", str(project / "store"), str(target))


@pytest.mark.parametrize(
    ("source", "target"), [("store", "store"), ("store", "store/inner"), ("store/tenants", "store")]
)
def test_a_store_is_not_copied_into_itself(project: Path, source: str, target: str) -> None:
    words = ["--project", str(project), "store", "copy", str(project / source), str(project / target)]
    with pytest.raises(UserError, match="one store lies in the other"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_an_option_without_a_value_is_one_message(project: Path) -> None:
    words = [
        "--project",
        str(project),
        "store",
        "copy",
        str(project / "store"),
        "s3://x/y",
        "--to-option",
        "profile",
    ]
    with pytest.raises(UserError, match="--to-option: not an option"):
        CliRunner().invoke(app, words, catch_exceptions=False)


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
    "gc that removes": ("gc",),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("strange", mostly_long(STRANGE, every=2))
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
