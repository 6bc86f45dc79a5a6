"""release, rollback, history, catalogue: the commands over the release log, as a person types them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.automation.processes.instance import open_instance
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.fleet.events.events import released_events
from ft_dagster.lineage.release import history
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from tests.e2e.project import POLICY, write_yaml
from tests.kept_project import answer, copied_project
from tests.present import present
from tests.releases import adapter, frozen, release, whole_model
from tests.s3_server import free_port

pytestmark = pytest.mark.slow

VARIANT = """
description: says hello
owners: [ann@acme.example]
base_model: models/x
data: {sources: [rows.jsonl]}
method: lora
release: {approvers: [ann, bob]}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(folder))  # which opening the instance sets
    file = folder / "tenants" / "acme" / "support.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(VARIANT)
    store = load_settings(folder).open_store()
    frozen(store, "acme.support")
    for number in (1, 2):
        release(store, "acme.support", adapter(number), weights=str(number) * 64)
    return folder


def typed(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_rollback_and_a_forced_release_are_in_the_history(project: Path) -> None:
    assert typed(project, "rollback", "acme.support", "--reason", "worse")["production"] == 1
    with pytest.raises(UserError, match="was rolled back: worse"):
        typed(project, "release", "acme.support", "--by", "ann")
    forced = ["--force", "--reason", "the questions were wrong", "--by", "ann"]
    assert typed(project, "release", "acme.support", *forced)["production"] == 2
    shown = typed(project, "history", "acme.support")
    assert [entry["action"] for entry in shown["entries"]] == ["release", "release", "rollback", "promote"]
    assert shown["aliases"] == {"production": 2, "candidate": 2}


def test_a_rollback_to_nothing_serves_none_until_a_release(project: Path) -> None:
    gone = typed(project, "rollback", "acme.support", "--to-nothing", "--reason", "answers with names")
    assert (gone["version"], gone["from_version"], gone["production"]) == (2, 2, None)
    assert typed(project, "history", "acme.support")["aliases"] == {"production": None, "candidate": 2}
    for words in (["--to-nothing"], ["--to", "1"], []):
        with pytest.raises(UserError, match=r"no version is in production.*ft-dagster release acme\.support"):
            typed(project, "rollback", "acme.support", *words, "--reason", "again")
    with pytest.raises(UserError, match="was rolled back: answers with names"):
        typed(project, "release", "acme.support", "--by", "ann")
    assert typed(project, "release", "acme.support", "--version", "1", "--by", "ann")["production"] == 1


def test_a_rollback_to_nothing_is_said_on_the_page_and_to_the_fleet(project: Path) -> None:
    words = ["rollback", "acme.support", "--to-nothing", "--reason", "names", "--by", "ann"]
    done = CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)
    assert "acme.support: version 2 was taken out of production; none is served" in done.stdout
    page = page_of_release(project)
    assert "No version is in production: ann took version 2 out" in str(page["summary"].value)
    assert page["production"].value == "none"
    past = history(load_settings(project).open_store(), "tenants/acme/support")
    *_, told = released_events(past, None)
    assert told.kind == "rolled_back"
    assert told.sentence == "version 2 was taken out of production by ann; none is served"


@pytest.mark.parametrize("more", [["--to", "1"], ["--force"]])
def test_a_rollback_to_nothing_goes_back_to_no_version(project: Path, more: list[str]) -> None:
    with pytest.raises(UserError, match=f"no version is gone back to, and {more[0]} is given"):
        typed(project, "rollback", "acme.support", "--to-nothing", "--reason", "worse", *more)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with releases of real trainings."""
    project = copied_project(tmp_path, monkeypatch)
    write_yaml(project / "policy.yaml", POLICY)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(project))
    return project


def page_of_release(project: Path) -> Mapping[str, dg.MetadataValue[Any]]:
    """What Dagster shows of the newest materialization."""
    with open_instance(load_settings(project)) as instance:
        event = present(instance.get_latest_materialization_event(dg.AssetKey("release")))
    return present(event.asset_materialization).metadata


def test_the_page_of_what_was_gone_back_to_says_as_much_as_that_of_a_release(kept: Path) -> None:
    answer(kept, "rollback", "acme.places", "--reason", "worse", "--by", "ann")
    shown = page_of_release(kept)
    assert [*shown][:3] == ["summary", "picture", "made_of"]
    said = str(shown["summary"].value)
    assert said.startswith("**Version 1 is in production: ann went back to it from version 3.**")
    for part in (
        "Passed: all 3 rules",
        "](/runs/",
        "ft-dagster trace acme.places --version 1 --to rows.jsonl",
    ):
        assert part in said
    made_of = shown["made_of"]
    assert isinstance(made_of, dg.TableMetadataValue)
    assert str(made_of.records[0].data["details"]).replace("\u200b", "").startswith("data/places.jsonl")
    assert (shown["version"].value, shown["production"].value) == (1, 1)


def test_a_rollback_stands_where_its_page_cannot_be_made(kept: Path) -> None:
    """Who would be told of an error would go back once more."""
    for manifest in (kept / "store/tenants/acme/places/evaluation").glob("*/manifest.json"):
        content = json.loads(manifest.read_text("utf-8"))
        content["predicate"]["figures"]["verdict"]["rules"] = 3
        manifest.write_text(json.dumps(content), "utf-8")
    said = answer(kept, "rollback", "acme.places", "--reason", "worse", "--by", "ann")
    assert "version 1 is in production" in said
    shown = page_of_release(kept)
    assert str(shown["summary"].value).startswith("could not be made: ")
    assert shown["production"].value == 1


@pytest.mark.long
def test_a_rollback_stands_where_dagsters_database_is_away(project: Path, tmp_path: Path) -> None:
    away = f"postgresql+psycopg2://ft:x@127.0.0.1:{free_port()}/dagster"
    (tmp_path / "home").mkdir()
    kept = {"storage": {"postgres": {"postgres_url": away}}}
    (tmp_path / "home" / "dagster.yaml").write_text(json.dumps(kept), "utf-8")
    words = ["rollback", "acme.support", "--reason", "worse"]
    done = CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)
    assert done.exit_code == 0
    assert "version 1 is in production" in done.stdout
    assert "it stands in the release log, and Dagster does not show it: " in done.stderr
    assert "Traceback" not in done.stderr
    assert typed(project, "history", "acme.support")["aliases"]["production"] == 1


def test_only_an_approver_puts_a_version_into_production(project: Path) -> None:
    typed(project, "rollback", "acme.support", "--reason", "worse")
    with pytest.raises(UserError, match="eve may not approve"):
        typed(project, "release", "acme.support", "--by", "eve", "--force", "--reason", "mine")


def test_a_tenant_names_no_approver_that_the_policy_does_not(project: Path) -> None:
    typed(project, "rollback", "acme.support", "--reason", "worse")
    (project / "policy.yaml").write_text("approvers: [ann]\n")
    forced = ["--force", "--reason", "the questions were wrong"]
    with pytest.raises(UserError, match="bob may not approve"):
        typed(project, "release", "acme.support", "--by", "bob", *forced)
    assert typed(project, "release", "acme.support", "--by", "ann", *forced)["production"] == 2


def test_a_version_whose_bytes_are_gone_is_not_gone_back_to(project: Path) -> None:
    store = load_settings(project).open_store()
    entry = store.read_json("tenants/acme/support/releases/000001.json")
    (manifest,) = (project / ".ft_dagster/store/tenants/acme/support/model_export").glob(
        f"{entry['export_key']}/manifest.json"
    )
    manifest.unlink()
    with pytest.raises(UserError, match="export of version 1 is not in the store"):
        typed(project, "rollback", "acme.support", "--reason", "worse")
    assert typed(project, "history", "acme.support")["aliases"]["production"] == 2


def test_what_dagster_shows_of_a_release_follows_the_log(project: Path) -> None:
    import dagster as dg

    typed(project, "rollback", "acme.support", "--reason", "worse")
    with dg.DagsterInstance.get() as instance:
        event = present(instance.get_latest_materialization_event(dg.AssetKey("release")))
    shown = present(event.asset_materialization)
    assert shown.partition == "acme.support"
    assert shown.metadata["production"].value == 1


def test_the_catalogue_has_every_adapter_in_production_by_base(project: Path, tmp_path: Path) -> None:
    listed = typed(project, "catalogue")
    assert not (tmp_path / "catalogue").exists()
    made = typed(project, "catalogue", "--to", str(tmp_path / "catalogue"))
    assert [base["files"] for base in made["bases"]] == [base["files"] for base in listed["bases"]]
    (base,) = made["bases"]
    assert (base["base_model"], base["adapters"]) == ("models/x", ["acme.support"])
    (arguments,) = (tmp_path / "catalogue").glob("*/vllm.args")
    assert "--max-lora-rank 8 --lora-modules acme.support=" in arguments.read_text()
    (index,) = (tmp_path / "catalogue").glob("*/adapters.json")
    assert json.loads(index.read_text())["adapters"][0]["version"] == 2


def test_the_catalogue_keeps_a_quantized_base_apart_and_has_whole_models(
    project: Path, tiny_model_folder: Path
) -> None:
    """What was judged on nf4 and served on the plain base would be another model."""
    store = load_settings(project).open_store()
    for name in ("nf4", "int8", "whole"):
        (project / "tenants" / "acme" / f"{name}.yaml").write_text(VARIANT)
    for kind in ("nf4", "int8"):
        files = {**adapter(), "quantization.json": {"quantization": kind}}
        release(store, f"acme.{kind}", files, weights=kind[0].replace("n", "b").replace("i", "c") * 64)
    release(store, "acme.whole", whole_model(tiny_model_folder), weights="d" * 64)
    found = typed(project, "catalogue")
    by_kind = {base["quantization"]: base for base in found["bases"]}
    assert {kind: base["adapters"] for kind, base in by_kind.items()} == {
        None: ["acme.support"], "nf4": ["acme.nf4"], "int8": ["acme.int8"],
    }  # fmt: skip
    assert "--quantization bitsandbytes --enable-lora" in by_kind["nf4"]["files"]["vllm.args"]
    assert "quantization" not in by_kind[None]["files"]["vllm.args"]
    assert by_kind["int8"]["files"]["vllm.args"] == ""
    assert "int8" in by_kind["int8"]["not_by_vllm"]["acme.int8"][0]
    assert "load_in_8bit=True" in by_kind["int8"]["files"]["load.py"]
    assert [(model["variant"], model["version"]) for model in found["models"]] == [("acme.whole", 1)]
    said = CliRunner().invoke(app, ["--project", str(project), "catalogue"]).output
    for word in (
        "acme.whole v1, a whole model: vllm serve ",
        "models/x in nf4",
        "not by vLLM: it was judged on",
    ):
        assert word in said


def test_a_log_that_was_changed_is_named_and_hides_no_other_variant(project: Path) -> None:
    other = project / "tenants" / "acme" / "other.yaml"
    other.write_text(VARIANT)
    store = load_settings(project).open_store()
    path = "tenants/acme/support/releases/000001.json"
    store.write_json(path, {**store.read_json(path), "reason": "approved by everybody"})
    with pytest.raises(UserError, match=r"000002\.json: entry 1 of this release log is not what entry 2"):
        typed(project, "history", "acme.support")
    shown = typed(project, "status")
    assert [row["variant"] for row in shown["variants"]] == ["acme.other"]
    assert "release log" in shown["broken"][0]["problem"]


@pytest.mark.parametrize("words", [["release", "--by", "ann"], ["rollback", "--reason", "worse"]])
def test_what_is_released_meanwhile_is_not_served_unverified(
    project: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Another process releases a version between the check of the bytes and the entry."""
    from ft_dagster.cli import releases as commands

    store = load_settings(project).open_store()
    for number in (3, 4):
        release(store, "acme.support", adapter(number), weights=str(number) * 64)
    verified = []

    def verify(settings: Any, key: VariantKey, version: int | None) -> None:
        verified.append(version)
        release(store, "acme.support", adapter(5), weights="5" * 64)

    monkeypatch.setattr(commands, "_verify", verify)
    command, *options = words
    assert typed(project, command, "acme.support", *options)["production"] == verified[0]


@pytest.mark.parametrize("content", ["{", "description: x\nunknown: 1\n", None])
def test_what_is_served_is_taken_back_whatever_the_declaration_says(
    project: Path, content: str | None
) -> None:
    """A file that the newest version refuses, or that is gone, keeps nobody from a rollback."""
    file = project / "tenants" / "acme" / "support.yaml"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    assert typed(project, "rollback", "acme.support", "--reason", "worse")["production"] == 1
    assert typed(project, "history", "acme.support")["aliases"]["production"] == 1
    with pytest.raises(UserError):
        typed(project, "release", "acme.support", "--by", "ann")
    with pytest.raises(UserError):
        typed(project, "history", "acme.suport")  # codespell:ignore
