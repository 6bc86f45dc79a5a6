"""What a run leaves beside its payloads: a tree over the records, whose root the manifest has."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.records.record_keys import SHARED_OWNER, keys_of
from ft_dagster.records.record_tree import RecordTree, TreeHead, check_tree
from ft_dagster.settings import AllowedSources, Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import version_of
from ft_dagster.stages import training_mixture
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.store import Artifact
from ft_dagster.workspace.corpora import find_corpus
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import write_project
from tests.present import present

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    folder = write_project(tmp_path_factory.mktemp("prepared") / "project", tiny_model_folder)
    workspace = Workspace(load_settings(folder), VariantKey("acme", "places"), RunOf(say=lambda line: None))
    outcome = run_chain(workspace, up_to("training_mixture"))
    assert outcome.error is None, outcome.error
    return workspace


def made(workspace: Workspace) -> dict[str, tuple[Artifact, str]]:
    """Stage -> (artifact, whose key orders its tree)."""
    return {
        "task_dataset": (workspace.upstream("task_dataset"), "acme"),
        "training_mixture": (workspace.upstream("training_mixture"), "acme"),
        "general_corpus": (find_corpus(workspace.store, "general"), SHARED_OWNER),
    }


@pytest.mark.parametrize("stage", ["task_dataset", "training_mixture", "general_corpus"])
def test_the_root_of_the_tree_stands_in_the_manifest(prepared: Workspace, stage: str) -> None:
    artifact, owner = made(prepared)[stage]
    head, key = present(TreeHead.of(artifact.figures)), keys_of(prepared.settings.keys_folder, owner).current
    assert head.key == key.id
    check_tree(prepared.evidence(artifact), head, key)
    assert head.size == len(RecordTree.read(prepared.evidence(artifact))) > 0


def test_the_tree_is_in_no_key_and_no_digest(prepared: Workspace, tmp_path: Path) -> None:
    """Another key gives other roots, of artifacts of the same keys and digests."""
    content = prepared.settings.model_dump()
    moved = {"store": str(tmp_path / "store"), "work": tmp_path / "work", "keys": tmp_path / "keys"}
    other = Workspace(Settings(**{**content, **moved}), prepared.key, RunOf(say=lambda line: None))
    assert run_chain(other, up_to("training_mixture")).error is None
    for stage, (artifact, _) in made(prepared).items():
        again, _ = made(other)[stage]
        assert (again.digest, again.place) == (artifact.digest, artifact.place)
        assert present(TreeHead.of(again.figures)).root != present(TreeHead.of(artifact.figures)).root


def test_a_record_of_a_file_that_is_another_tenants_stops_the_chain(prepared: Workspace) -> None:
    """By today's settings: the folder of the rows was closed to this tenant since."""
    mixture = prepared.upstream("training_mixture")
    checks = {check.name: check for check in training_mixture.judge(prepared, mixture)}
    assert checks["own_records"].passed
    assert checks["own_records"].figures == {"files": 1}
    closed = prepared.settings.model_copy(update={"sources": AllowedSources(allow=("tenants",))})
    checks = {
        check.name: check for check in training_mixture.judge(replace(prepared, settings=closed), mixture)
    }
    assert not checks["own_records"].passed
    assert "data/rows.jsonl" in checks["own_records"].sentence


@pytest.mark.parametrize(("version", "passed"), [(version_of("training_mixture"), False), (1, True)])
def test_a_mixture_that_says_nothing_of_its_records_is_no_old_one(
    prepared: Workspace, tmp_path: Path, version: int, passed: bool
) -> None:
    """Only what an older version of the stage made may lack them."""
    mixture = prepared.upstream("training_mixture")
    listed = [file for file in mixture.predicate["evidence"] if file["path"] != ORIGINS]
    bare = replace(mixture, predicate={**mixture.predicate, "evidence": listed, "stage_version": version})
    shutil.copytree(prepared.settings.open_store().root, tmp_path / "store")
    settings = prepared.settings.model_copy(update={"store": str(tmp_path / "store")})
    (tmp_path / "store" / mixture.path / "evidence" / ORIGINS).unlink()
    judged = training_mixture.judge(Workspace(settings, prepared.key, prepared.run), bare)
    [own] = [check for check in judged if check.name == "own_records"]
    assert (own.passed, "not judged" in own.sentence) == (passed, True)


def test_a_declaration_cannot_read_the_keys(prepared: Workspace) -> None:
    assert prepared.settings.keys_folder in prepared.roots.never
