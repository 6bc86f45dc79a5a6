"""Projects as Components among another's assets: apart from each other, by their defs.yaml alone."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click import ClickException
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.test_utils import create_run_for_test
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster.components.core.component_tree import ComponentTreeException
from pydantic import ValidationError

from ft_dagster.assets.partitions import Graph
from ft_dagster.automation.coordinator import own_assets
from ft_dagster.automation.due import rebuild_fleet, tick
from ft_dagster.automation.processes.instance import opened
from ft_dagster.automation.tags import changed_tags
from ft_dagster.build import build_defs
from ft_dagster.component import ProjectParams
from ft_dagster.errors import UserError
from ft_dagster.fleet.decision import table_beside
from ft_dagster.lineage.release import production
from ft_dagster.resources.launchers import Programs
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from tests.e2e.project import write_project, write_yaml
from tests.instances import new_instance
from tests.present import present
from tests.security.pretend import Pretend
from tests.spec.small_base import lay_base

pytestmark = pytest.mark.slow

OWN = """
import dagster as dg

@dg.asset
def tickets() -> None:
    \"\"\"An asset that the code location had before.\"\"\"
"""
PROJECT = """
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "host"
"""
LOCATION = """
import dagster as dg
from pathlib import Path

defs = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


def host(folder: Path, *components: dict[str, Any]) -> Path:
    """A `dg` project with an asset of its own and a folder of defs for each component."""
    package = folder / "host"
    (package / "defs").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    for init in (package, package / "defs"):
        (init / "__init__.py").write_text("")
    (package / "defs" / "own.py").write_text(OWN)
    (package / "location.py").write_text(LOCATION)
    for number, attributes in enumerate(components):
        file = package / "defs" / f"models_{number}" / "defs.yaml"
        write_yaml(file, {"type": "ft_dagster.FineTuning", "attributes": attributes})
    return folder


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "host"]:
        monkeypatch.delitem(sys.modules, name)
    return dg.load_from_defs_folder(path_within_project=folder / "host")


def declared(folder: Path, *keys: str) -> Path:
    """A project of declarations alone."""
    for key in keys:
        tenant, _, variant = key.partition(".")
        file = folder / "tenants" / tenant / f"{variant}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            "description: d\nowners: [team:a]\nobjective: instruction\nbase_model: {source: models/b}\n"
            "data: {sources: [data/rows.jsonl]}\nevaluation: {general: []}\n"
        )
    (folder / "ft_dagster.yaml").write_text("{}\n")
    return folder


def test_two_projects_share_a_code_location_with_the_hosts_own_assets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = declared(tmp_path / "one", "acme.support"), declared(tmp_path / "two", "acme.support")
    folder = host(
        tmp_path / "host",
        {"project": str(one), "key_prefix": "support"},
        {"project": str(two), "key_prefix": ["research", "models"]},
    )
    repository = loaded(folder, monkeypatch).get_repository_def()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert {"tickets", "support/release", "research/models/release"} <= keys
    assert not {"release", "declaration"} & keys
    assert {"support__variant_chain", "research__models__variant_chain"} <= set(repository.job_names)
    names = {definition.name for definition in repository.sensor_defs}
    assert {"support__due_retrains", "research__models__due_retrains"} <= names
    partitions = {
        node.partitions_def.name
        for node in repository.asset_graph.asset_nodes
        if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
    }
    assert partitions == {"support__ft_dagster_variant", "research__models__ft_dagster_variant"}


def test_the_hosts_own_asset_is_above_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = declared(tmp_path / "one", "acme.support")
    write_yaml(one / "ft_dagster.yaml", {"sources": {"allow": [".", "asset://tickets"]}})
    folder = host(tmp_path / "host", {"project": str(one), "key_prefix": "support"})
    repository = loaded(folder, monkeypatch).get_repository_def()
    taken = dg.AssetKey(["support", "upstream", "tickets"])
    assert repository.asset_graph.get(taken).parent_keys == {dg.AssetKey("tickets")}
    assert taken in repository.asset_graph.get(dg.AssetKey(["support", "declaration"])).parent_keys
    assert "support__upstream_updates" in {sensor.name for sensor in repository.sensor_defs}


@pytest.mark.parametrize("prefix", [[], "support"], ids=["without a prefix", "with one"])
def test_the_hosts_executor_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str | list[str]
) -> None:
    one = declared(tmp_path / "one", "acme.support")
    folder = host(tmp_path / "host", {"project": str(one), "key_prefix": prefix})
    assert loaded(folder, monkeypatch).executor is None
    own = dg.Definitions(executor=dg.multiprocess_executor)
    merged = dg.Definitions.merge(own, build_defs(one, key_prefix=prefix))
    assert merged.executor is dg.multiprocess_executor


def test_each_projects_fleet_sees_its_own_variants_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = {
        "one": declared(tmp_path / "one", "acme.support"),
        "two": declared(tmp_path / "two", "acme.support", "globex.places"),
    }
    (tmp_path / "instance").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "instance"))  # as every host's daemon has it
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        for prefix, folder in projects.items():
            settings, graph = load_settings(folder), Graph((prefix,), str(folder))
            tick(instance, settings, Declarations(folder), None, datetime.now(UTC), graph=graph)
        known = {
            prefix: instance.get_dynamic_partitions(f"{prefix}__ft_dagster_variant") for prefix in projects
        }
    assert known == {"one": ["acme.support"], "two": ["acme.support", "globex.places"]}
    tables = {prefix: present(table_beside(load_settings(folder))) for prefix, folder in projects.items()}
    assert {prefix: [row.key for row in table.rows()] for prefix, table in tables.items()} == known


def test_a_table_beside_is_that_of_the_project_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = declared(tmp_path / "one", "acme.support"), declared(tmp_path / "two", "globex.places")
    (tmp_path / "instance").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "instance"))
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        tick(instance, load_settings(one), Declarations(one), None, datetime.now(UTC))
    assert [row.key for row in present(table_beside(load_settings(one))).rows()] == ["acme.support"]
    assert table_beside(load_settings(two)) is None
    moved = one.rename(tmp_path / "moved")  # or a container sees it there
    assert [row.key for row in present(table_beside(load_settings(moved))).rows()] == ["acme.support"]


def test_a_table_under_a_prefix_is_not_rebuilt_without_the_hosts_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = declared(tmp_path / "one", "acme.support")
    settings, graph = load_settings(folder), Graph(("models",), str(folder))
    with new_instance() as instance:
        tick(instance, settings, Declarations(folder), None, datetime.now(UTC), graph=graph)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with opened(settings.own_home) as own, pytest.raises(UserError, match="under the prefix models"):
        rebuild_fleet(own, settings)
    assert len(present(table_beside(settings)).rows()) == 1


@pytest.mark.parametrize("prefix", ["a b", "", "a/b", ["a", 3], "a__b", "a_"])
def test_a_prefix_that_dagster_refuses_is_said(prefix: Any) -> None:
    with pytest.raises(UserError, match=r"key_prefix: cannot begin the keys of assets"):
        build_defs("project", key_prefix=prefix)


def test_a_project_is_named_from_the_folder_where_the_definitions_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared(tmp_path / "models", "acme.support")
    monkeypatch.chdir(tmp_path)
    definitions = build_defs("models", key_prefix="support")
    monkeypatch.chdir("/")
    tenants = present(definitions.resources)["support__tenants"].resource_fn(None)
    assert tenants.folder == tmp_path / "models"
    [project] = {
        node.metadata["ft_dagster/project"]
        for node in definitions.resolve_asset_graph().asset_nodes
        if "ft_dagster/project" in node.metadata
    }
    assert project == str(tmp_path / "models")


def test_a_resource_of_another_name_is_said() -> None:
    with pytest.raises(UserError, match=r"no resource of the graph.*It has tenants, gpus, launcher"):
        build_defs("project", resources={"gpu": dg.ResourceDefinition.none_resource()})


def test_a_project_that_is_not_there_is_said_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = host(tmp_path / "host", {"project": "../nowhere"})
    with pytest.raises(ComponentTreeException, match=r"defs.yaml \(FineTuning\) \(error\)") as raised:
        loaded(folder, monkeypatch).get_repository_def()
    assert "attributes.project: no such project folder (got '../nowhere')" in str(raised.value.__cause__)


def test_two_components_without_a_prefix_are_refused_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = declared(tmp_path / "one", "acme.a"), declared(tmp_path / "two", "acme.b")
    folder = host(tmp_path / "host", {"project": str(one)}, {"project": str(two)})
    with pytest.raises(ComponentTreeException) as raised:
        loaded(folder, monkeypatch).get_repository_def()
    assert "different resources with same key 'tenants'" in str(raised.value.__cause__)


FINDS = """
import json, sys
from dagster.components.core.package_entry import discover_entry_point_package_objects
import ft_dagster
found = [key for key in discover_entry_point_package_objects() if key.namespace == "ft_dagster"]
fields = sorted(ft_dagster.FineTuning.get_model_cls().model_json_schema()["properties"])
print(json.dumps([[key.name for key in found], fields, "torch" in sys.modules]))
"""


def test_dg_finds_the_component_and_its_fields() -> None:
    done = subprocess.run([sys.executable, "-c", FINDS], check=True, capture_output=True, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == [["FineTuning"], ["key_prefix", "project"], False]


def scaffolded(folder: Path, **asked: str) -> dict[str, Any]:
    """Scaffold a project in a folder; return the attributes of its defs.yaml."""
    from dagster.components.component_scaffolding import scaffold_object

    rows = folder.parent / "rows.jsonl"
    rows.write_text("".join(f'{{"letter": "letter {n}", "desk": "desk {n % 3}"}}\n' for n in range(400)))
    base = folder.parent / "base"
    base = base if base.exists() else lay_base(base, 135_000)
    given = {"base_model": str(base), "data": str(rows), "variant": "acme.first", **asked}
    scaffold_object(folder, "ft_dagster.FineTuning", json.dumps(given), "yaml", folder.parent)
    attributes: dict[str, Any] = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    return attributes


def test_the_scaffold_makes_a_project_with_a_first_declaration(tmp_path: Path) -> None:
    assert scaffolded(tmp_path / "models")["project"] == "project"
    project = tmp_path / "models" / "project"
    assert (project / "tenants" / "acme" / "first.yaml").is_file()
    spec = Declarations(project).declared(VariantKey("acme", "first")).spec
    assert spec.data.sources[0].fields == {"instruction": "letter", "output": "desk"}
    assert spec.evaluation.kind == "label"


def test_the_scaffold_takes_the_columns_it_is_given_and_asks_for_them_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClickException, match=r"columns|no such column"):
        scaffolded(tmp_path / "none", question="lettr", answer="desk")
    assert not (tmp_path / "none").exists()
    scaffolded(tmp_path / "turned", question="desk", answer="letter")
    written = (tmp_path / "turned" / "project" / "tenants" / "acme" / "first.yaml").read_text()
    assert "fields: {instruction: desk, output: letter}" in written


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [("support", "support"), ("our-models", "our_models"), ("_a__b.c", "a_b_c"), ("模型", "project")],
)
def test_the_scaffold_writes_a_prefix_of_its_folders_name(tmp_path: Path, folder: str, prefix: str) -> None:
    assert scaffolded(tmp_path / folder)["key_prefix"] == prefix


def test_the_scaffold_writes_the_prefix_that_it_is_given_and_refuses_one_that_dagster_does(
    tmp_path: Path,
) -> None:
    assert scaffolded(tmp_path / "support", key_prefix="research")["key_prefix"] == "research"
    with pytest.raises(ValidationError, match="cannot begin the keys of assets"):
        ProjectParams(base_model="org/model", data="org/rows", key_prefix="a b")


def test_two_scaffolds_share_a_code_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = host(tmp_path / "host")
    for name in ("support", "research"):
        scaffolded(folder / "host" / "defs" / name)
    jobs = set(loaded(folder, monkeypatch).get_repository_def().job_names)
    assert {"support__variant_chain", "research__variant_chain"} <= jobs


def test_the_scaffold_says_what_it_lets_tenants_read_and_what_starts_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaffolded(tmp_path / "support")
    said = capsys.readouterr().out
    assert f"{tmp_path} lies outside of the project: added to sources.allow" in said
    assert "dg launch --job support__variant_chain --partition acme.first" in said


def test_what_a_scaffold_is_given_counts_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    monkeypatch.chdir(tmp_path)
    asked = ProjectParams(base_model="org/model", data="*.jsonl", variant="acme.first")
    assert (asked.base_model, asked.data) == ("org/model", str(tmp_path / "*.jsonl"))
    with pytest.raises(ValidationError, match="not a variant key"):
        ProjectParams(base_model="org/model", data="rows.jsonl", variant="First")
    with pytest.raises(ValidationError, match=r"--data.*no such file"):
        ProjectParams(base_model="org/model", data="none.jsonl", variant="acme.first")
    with pytest.raises(ValidationError, match=r"--base-model.*no such base model folder"):
        ProjectParams(base_model="./model", data="rows.jsonl", variant="acme.first")


@pytest.mark.long
def test_the_coordinator_finds_the_project_of_a_run_by_its_assets(tmp_path: Path) -> None:
    one = declared(tmp_path / "one", "acme.support")
    folder = host(tmp_path / "host", {"project": str(one), "key_prefix": "support"})
    target = PythonFileTarget(str(folder / "host" / "location.py"), "defs", str(folder), "host")
    (tmp_path / "instance").mkdir()
    page = (Path(__file__).resolve().parents[1] / "docs" / "embedding.md").read_text("utf-8")
    written = yaml.safe_load(page.partition("# the host's dagster.yaml\n")[2].partition("```")[0])
    with (
        dg.DagsterInstance.local_temp(str(tmp_path / "instance"), overrides=written) as instance,
        WorkspaceProcessContext(instance, target) as process,
    ):
        workspace = process.create_request_context()
        repository = workspace.get_code_location("host").get_repository("__repository__")

        def created(job: str, *chosen: dg.AssetKey) -> dg.DagsterRun:
            origin = repository.get_full_job(job).get_remote_origin()
            selection = frozenset(chosen) or None
            return create_run_for_test(instance, job, asset_selection=selection, remote_job_origin=origin)

        of_asset = created("__ASSET_JOB", dg.AssetKey(["support", "declaration"]))
        of_job = created("support__variant_chain")
        of_host = created("__ASSET_JOB", dg.AssetKey("tickets"))
        of_nowhere = create_run_for_test(instance, "support__variant_chain")
        found = [own_assets(run, workspace) for run in (of_asset, of_job, of_host, of_nowhere)]
        claims = {"dagster/partition": "example.com", "dagster/priority": "9", "ft/tenant": "acme"}
        claims["ft/project_tenant"] = f"{one}:acme"
        instance.add_run_tags(of_host.run_id, claims)
        host_run = present(instance.get_run_by_id(of_host.run_id))
        instance.run_coordinator.submit_run(SubmitRunContext(host_run, workspace))
        kept = present(instance.get_run_by_id(of_host.run_id)).tags
    assert [own and (own.project, own.variants) for own in found] == [(str(one), True)] * 2 + [None] * 2
    assert (kept["dagster/priority"], kept["ft/tenant"], kept["ft/project_tenant"]) == ("9", "none", "none")
    assert "ft/variant" not in kept


def test_the_queues_tags_name_the_project_where_there_may_be_several(tmp_path: Path) -> None:
    one, two = declared(tmp_path / "one", "acme.support"), declared(tmp_path / "two", "acme.support")
    run = dg.DagsterRun("variant_chain", tags={"dagster/partition": "acme.support"})
    named = [changed_tags(run, str(folder)) for folder in (one, two)]
    assert [tags["ft/project_variant"] for tags in named] == [f"{one}:acme.support", f"{two}:acme.support"]
    assert [tags["ft/project_tenant"] for tags in named] == [f"{one}:acme", f"{two}:acme"]
    assert {tags["ft/variant"] for tags in named} == {"acme.support"}


def test_a_hosts_variant_goes_from_its_declaration_to_a_release(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its programs do is pretended."""
    project = write_project(tmp_path / "project", tiny_model_folder)
    folder = host(tmp_path / "host", {"project": str(project), "key_prefix": "models"})
    definitions = loaded(folder, monkeypatch)
    pretend = Pretend()
    monkeypatch.setattr(Programs, "open", lambda self: pretend)
    job = definitions.resolve_job_def("models__variant_chain")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("models__ft_dagster_variant", ["acme.places"])
        done = job.execute_in_process(partition_key="acme.places", instance=instance)
        released = instance.get_latest_materialization_event(dg.AssetKey(["models", "release"]))
    assert done.success
    entry = production(load_settings(project).open_store(), VariantKey.parse("acme.places").prefix)
    assert entry is not None
    summary = present(present(released).asset_materialization).metadata["summary"].value
    assert "(/assets/models/release_evaluation?view=partitions&partition=acme.places)" in str(summary)
