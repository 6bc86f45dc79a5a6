"""A tenant with a declaration, and a user with Dagster's pages, against the doors of a project."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.build import default_resources as resources
from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.sources.locations import DeclaredAt, data_files
from ft_dagster.data.sources.readers import read_file
from ft_dagster.definitions import defs
from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.listing import WatchedPlace, listing
from ft_dagster.roots import OUTSIDE
from ft_dagster.settings import load_settings
from ft_dagster.spec import load_variant
from ft_dagster.spec.data import SourceSpec
from ft_dagster.stages import declaration
from ft_dagster.versions.sample import sample
from ft_dagster.workspace.workspace import Trial, Workspace
from tests.security.projects import (
    KEY,
    QUIZ,
    ROWS,
    SECRET,
    SECRETS,
    declare,
    mistakes,
    settle,
    two_tenants,
    write,
)
from tests.tiny_model import make_tiny_model

PLACES = {
    "outside": "../outside",
    "another tenant's folder": "data/globex",
    "the store": ".ft_dagster/store/tenants/globex/places",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    return two_tenants(tmp_path)


def sources(*paths: str) -> dict[str, Any]:
    return {"data": {"sources": list(paths), "general": {"corpus": "general"}}}


def task(project: Path, **changes: Any) -> dict[str, Any]:
    """A declaration that asks a task of its own, with other values in its YAML."""
    write(project / "tasks/own.yaml", {**QUIZ, "task": "own", **changes})
    return {"evaluation": {"general": [], "task": ["tasks/own.yaml"]}}


def reads(project: Path, data: str) -> dict[str, Any]:
    """A declaration that asks a task of its own, of these data."""
    return task(project, dataset_kwargs={"data_files": {"test": data}})


def asks(task: str) -> dict[str, Any]:
    return {"evaluation": {"general": [], "task": [task]}}


NAMED: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "data.sources": lambda project, place: sources(f"{place}/rows.jsonl"),
    "data.sources, a folder": lambda project, place: sources(place),
    "data.sources, a glob": lambda project, place: sources(f"{place}/*.jsonl"),
    "data.sources, absolute": lambda project, place: sources(str((project / place).resolve() / "rows.jsonl")),
    "evaluation.task": lambda project, place: asks(f"{place}/task.yaml"),
    "evaluation.task, its include": lambda project, place: task(project, include=f"../{place}/task.yaml"),
    "evaluation.task, its data": lambda project, place: task(
        project, dataset_kwargs={"data_files": {"test": f"../{place}/*.jsonl"}}
    ),
    "evaluation.task, a folder of data": lambda project, place: task(project, dataset_path=f"../{place}"),
    "evaluation.task, data_dir": lambda project, place: task(
        project, dataset_kwargs={"data_dir": f"../{place}"}
    ),
    "evaluation.database": lambda project, place: {
        "evaluation": {"general": [], "kind": "sql", "database": f"{place}/data.sqlite"}
    },
    "base_model": lambda project, place: {"base_model": str((project / place).resolve())},
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("field", NAMED)
def test_no_field_names_a_path_outside_the_tenants_roots(project: Path, field: str, place: str) -> None:
    declare(project, **NAMED[field](project, PLACES[place]))
    (error,) = mistakes(project)
    assert error.problem == OUTSIDE
    assert SECRET not in str(error)


@pytest.mark.parametrize("place", PLACES)
def test_a_link_in_the_project_leads_nowhere_else(project: Path, place: str) -> None:
    target = (project / PLACES[place]).resolve()
    (project / "data/acme/link").symlink_to(target)
    (project / "data/acme/folder").mkdir()
    (project / "data/acme/folder/rows.jsonl").symlink_to(target / "rows.jsonl")
    for path in ("data/acme/link", "data/acme/link/rows.jsonl", "data/acme/folder", "data/acme/*/rows.jsonl"):
        declare(project, **sources(path))
        (error,) = mistakes(project)
        assert (error.problem, error.field) == (OUTSIDE, "data.sources[0].path")


@pytest.mark.parametrize("path", ["link.jsonl", "*.jsonl", "*/../../data/globex/*.jsonl"])
def test_data_of_a_task_is_no_link_and_no_way_round_either(project: Path, path: str) -> None:
    (project / "tasks/link.jsonl").symlink_to(project / "data/globex/rows.jsonl")
    (project / "tasks/folder").mkdir()
    declare(project, **task(project, dataset_kwargs={"data_files": {"test": path}}))
    assert [error.problem for error in mistakes(project)] == [OUTSIDE]


GLOBS = {  # of what is there, and of what is not
    "another tenant's folder": ("data/globe?/rows.jsonl", "data/globe?/rats.jsonl"),
    "its files by their first letter": ("*/globex/r*.jsonl", "*/globex/s*.jsonl"),
    "the store": (
        ".ft_dagste?/store/tenants/globex/*/rows.jsonl",
        ".ft_dagste?/store/tenants/globex/*/rats.jsonl",
    ),
    "behind a link": ("data/acme/lin?/rows.jsonl", "data/acme/lin?/rats.jsonl"),
}


@pytest.mark.slow
@pytest.mark.parametrize("field", ["data.sources, a glob", "evaluation.task, its data"])
@pytest.mark.parametrize("place", GLOBS)
def test_a_glob_does_not_tell_whether_anything_is_outside_the_tenants_roots(
    project: Path, place: str, field: str
) -> None:
    (project / "data/acme/link").symlink_to((project / "../outside").resolve())
    said = []
    for pattern in GLOBS[place]:
        named = sources(pattern) if field.startswith("data") else reads(project, f"../{pattern}")
        declare(project, **named)
        (error,) = mistakes(project)
        said.append((error.problem, error.fix))
    assert said[0] == said[1]


def test_a_glob_names_what_the_tenant_may_read_of_what_it_matches(project: Path) -> None:
    declare(project, **sources("data/*/rows.jsonl"))
    assert mistakes(project) == []
    asked = DeclaredAt(roots=load_settings(project).roots("acme"))
    files = data_files(SourceSpec(path="data/*/rows.jsonl"), project, asked)
    assert [file.name for file in files] == ["data/acme/rows.jsonl"]
    write(project / "tasks/globex/quiz.jsonl", SECRET)
    declare(project, **reads(project, "../*/quiz.jsonl"))
    assert mistakes(project) == []


@pytest.mark.parametrize("path", ["rows", "rows/", "row[s]", "rows/**"])
def test_a_folder_is_read_as_far_as_the_tenant_may_and_tells_of_nothing_else(
    project: Path, path: str
) -> None:
    for name in ("acme", "globex"):
        write(project / "rows" / name / "rows.jsonl", "".join(ROWS))
    declare(project, **sources(path))
    roots = load_settings(project).roots("acme")
    for _ in ("another tenant's folder is there", "it is not"):
        assert mistakes(project) == []
        files = data_files(SourceSpec(path=path), project, DeclaredAt(roots=roots))
        assert [file.name for file in files] == ["rows/acme/rows.jsonl"]
        assert [file.path for file in listing(WatchedPlace("data", path), project, roots)] == [files[0].name]
        shutil.rmtree(project / "rows/globex", ignore_errors=True)


@pytest.mark.parametrize("name", ["config.json", "additional_chat_templates/tool.jinja"])
def test_no_file_of_a_base_is_a_link_to_what_may_not_be_read(project: Path, name: str) -> None:
    link = project / "models/base" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(project / "data/globex/config.json")
    declare(project)
    (error,) = mistakes(project)
    assert (error.problem, error.field) == (OUTSIDE, "base_model.source")


def test_a_declaration_is_no_link_to_another_tenants(project: Path) -> None:
    file = project / "tenants/acme/support.yaml"
    file.unlink()
    file.symlink_to(project / "tenants/globex/places.yaml")
    with pytest.raises(UserError, match="a link out of the tenant's folder"):
        load_variant(project, KEY)


def test_a_path_that_is_not_there_says_the_same_as_one_that_is(project: Path) -> None:
    said = []
    for name in ("rows.jsonl", "none.jsonl"):
        declare(project, **sources(f"../outside/{name}"))
        (error,) = mistakes(project)
        said.append(str(error).replace(name, "*"))
    assert said[0] == said[1]


def test_a_run_and_a_plan_refuse_what_check_refuses(project: Path) -> None:
    declare(project, **sources("data/globex/rows.jsonl"))
    workspace = Workspace(load_settings(project), KEY)
    with pytest.raises(UserError, match=OUTSIDE):
        workspace.make(declaration.STAGE)
    base = KnownTokenizer(make_tiny_model(project / "models/base"), None)
    with pytest.raises(UserError, match=OUTSIDE):
        sample(load_variant(project, KEY), project, base, workspace.roots)


def test_a_file_that_became_a_link_is_not_read(project: Path) -> None:
    rows = project / "data/acme/rows.jsonl"
    asked = DeclaredAt("acme.yaml", "data.sources[0]", load_settings(project).roots("acme"))
    (file,) = data_files(SourceSpec(path="data/acme/rows.jsonl"), project, asked)
    assert next(read_file(file)).fields == json.loads(ROWS[0])
    rows.unlink()
    rows.symlink_to(project / "data/globex/rows.jsonl")
    with pytest.raises(UserError, match=OUTSIDE) as caught:
        next(read_file(file))
    assert SECRET not in str(caught.value)


def test_a_saved_data_set_names_no_file_outside(project: Path) -> None:
    write(project / "data/acme/saved/state.json", '{"_data_files": ["../../globex/rows.jsonl"]}')
    declare(project, **sources("data/acme/saved"))
    assert [error.problem for error in mistakes(project)] == [OUTSIDE]


def test_what_the_platform_names_may_be_read(project: Path) -> None:
    outside = write(project.parent / "lent/rows.jsonl", "".join(ROWS)).parent
    declare(project, **sources(str(outside), "data/globex/shared/rows.jsonl"))
    write(project / "data/globex/shared/rows.jsonl", "".join(ROWS))
    assert len(mistakes(project)) == 2
    settle(
        project,
        sources={"allow": [".", str(outside)], "per_tenant": {"acme": ["data/globex/shared"]}},
    )
    assert mistakes(project) == []
    settle(project, sources={"allow": [str(outside)]})  # the project itself is named no more
    assert {error.problem for error in mistakes(project)} == {OUTSIDE}


def test_a_hidden_folder_below_a_root_is_open_only_where_it_is_named(project: Path) -> None:
    """A root may be somebody's home, with keys and credentials in it."""
    home = project.parent
    write(home / ".config/rows.jsonl", SECRETS)
    declare(project, **sources("../.config/rows.jsonl"))
    settle(project, sources={"allow": [".", str(home)]})
    (error,) = mistakes(project)
    assert error.problem == OUTSIDE
    assert SECRET not in str(error)
    settle(project, sources={"allow": [".", str(home / ".config")]})
    assert OUTSIDE not in [one.problem for one in mistakes(project)]


def test_the_store_is_never_open_whatever_is_named(project: Path) -> None:
    declare(project, **sources(f"{PLACES['the store']}/rows.jsonl"))
    settle(project, sources={"allow": [".", "/", ".ft_dagster/store"]})
    assert [error.problem for error in mistakes(project)] == [OUTSIDE]


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/globex/rows.jsonl",
        "s3://bucket/acme-other/rows.jsonl",
        "s3://bucket/acme/../globex/rows.jsonl",
        "s3://bucket/ac*/rows.jsonl",
        "s3://store/tenants/globex/rows.jsonl",
    ],
)
def test_an_address_is_read_only_below_a_prefix_that_is_named(project: Path, address: str) -> None:
    settle(project, store="s3://store/models", sources={"allow": [".", "s3://bucket/acme"]})
    declare(project, **sources(address))
    assert [error.problem for error in mistakes(project)] == [OUTSIDE]
    roots = load_settings(project).roots("acme")
    assert roots.may_fetch("s3://bucket/acme/new/*.jsonl")
    settle(project, store="s3://bucket/acme/store", sources={"allow": ["s3://bucket/acme"]})
    assert not load_settings(project).roots("acme").may_fetch("s3://bucket/acme/store/x.jsonl")


def test_repositories_of_the_hub_are_those_of_the_platforms_list(project: Path) -> None:
    settle(project, sources={"hub": ["ours/*"]})
    declare(project, base_model="theirs/model", **sources("theirs/rows"))
    assert [error.field for error in mistakes(project)] == ["base_model.source", "data.sources[0].path"]
    assert {error.problem for error in mistakes(project)} == {"not a repository of the platform's list"}


def test_optimizer_states_are_written_only_where_the_platform_lends_a_disk(project: Path) -> None:
    there = str(project / "tenants/globex")
    declare(project, training={"deepspeed": {"offload": "nvme", "nvme_path": there}})
    assert [error.field for error in mistakes(project)] == ["training.deepspeed.nvme_path"]
    settle(project, host={"offload_folders": [str(project)]})
    assert mistakes(project) == []


def test_a_run_cannot_configure_which_project_it_works_on(project: Path) -> None:
    laxer = {"resources": {"tenants": {"config": {"project": str(project)}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
        dg.validate_run_config(defs.resolve_job_def("variant_chain"), laxer)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [str(KEY)])
        with pytest.raises(dg.DagsterInvalidConfigError, match="unexpected config entry"):
            dg.materialize(
                CHAIN[:1], partition_key=str(KEY), instance=instance,
                resources=resources(str(project)), run_config=laxer,
            )  # fmt: skip


@pytest.mark.slow
def test_tags_of_a_run_change_nothing_that_it_reads(project: Path) -> None:
    plain = _declared_by_a_run(project, {})
    wanted = {"data.sources": ["data/globex/rows.jsonl"], "data.samples": "metadata"}
    tags = {"ft/experiment": "sweep-1/1", "ft/overrides": json.dumps(wanted)}
    assert _declared_by_a_run(project, tags) == plain


def _declared_by_a_run(project: Path, tags: dict[str, str]) -> str:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [str(KEY)])
        result = dg.materialize(
            CHAIN[:1], partition_key=str(KEY), instance=instance,
            resources=resources(str(project)), tags=tags,
        )  # fmt: skip
    (made,) = result.asset_materializations_for_node("declaration")
    return str(made.metadata["digest"].value)


def test_a_run_that_was_queued_as_another_variants_makes_nothing(project: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [str(KEY)])
        result = dg.materialize(
            CHAIN[:1], partition_key=str(KEY), instance=instance,
            resources=resources(str(project)), tags={"ft/variant": "globex.places"}, raise_on_error=False,
        )  # fmt: skip
    assert not result.success


@pytest.mark.parametrize(
    "overrides",
    [
        {"data.sources": ["data/globex/rows.jsonl"]},
        {"data.samples": "metadata"},
        {"data": {"sources": ["data/globex/rows.jsonl"]}},
        {"evaluation.task": ["tasks/other.yaml"]},
        {"evaluation.limit": 1},
        {"gates.general_margin": 1.0},
        {"release.approvers": []},
        {"training.deepspeed.nvme_path": "/"},
        {"training": {"deepspeed": {"stage": 3, "offload": "nvme", "nvme_path": "/"}}},
        {"base_model.variant": "globex.places"},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_an_experiment_changes_only_how_a_model_is_trained(project: Path, overrides: dict[str, Any]) -> None:
    declared = load_variant(project, KEY)
    workspace = Workspace(load_settings(project), KEY, trial=Trial("sweep-1/1", declared, overrides))
    with pytest.raises(UserError, match="no experiment may change it"):
        workspace.declared()


def test_the_link_of_an_open_file_is_followed(project: Path) -> None:
    roots = load_settings(project).roots("acme")
    secret = project / "data/globex/rows.jsonl"
    number = os.open(secret, os.O_RDONLY)
    try:
        with pytest.raises(UserError, match=OUTSIDE):
            roots.check_opened(number, str(project / "data/acme/rows.jsonl"))
    finally:
        os.close(number)
