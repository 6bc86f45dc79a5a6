"""`general: {from: base}`: what a base writes is made once, for all who start from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.mixture.mixture_io import held_out_documents
from ft_dagster.errors import UserError
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.records.record_keys import SHARED_OWNER, keys_of
from ft_dagster.records.record_tree import TreeHead, check_tree
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.stages import base_model, declaration, task_dataset, training_mixture
from ft_dagster.stages.base_text import STAGE
from ft_dagster.store import Artifact
from ft_dagster.versions.check import check_variant
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, write_project
from tests.present import present
from tests.taught import teach

KEYS = tuple(VariantKey(tenant, "places") for tenant in ("acme", "globex"))
UP_TO_MIXTURE = (declaration, base_model, task_dataset, training_mixture)
PLAIN: dict[str, Any] = {"description": "d", "owners": ["o"], "base_model": "b"}


def project_on(base: Path, folder: Path) -> Path:
    write_project(folder, base)
    for key in KEYS:
        file = folder / "tenants" / key.tenant / f"{key.variant}.yaml"
        edit(file, lambda content: content["data"].update(general={"from": "base", "share": 0.08}))
    (folder / "corpora" / "general.yaml").unlink()
    return folder


def mixed(folder: Path, key: VariantKey, said: list[str]) -> tuple[Workspace, Artifact]:
    workspace = Workspace(load_settings(folder), key, RunOf("test", "test", said.append))
    return workspace, [workspace.make(module.STAGE) for module in UP_TO_MIXTURE][-1]


@pytest.mark.slow
@pytest.mark.long
def test_two_tenants_are_mixed_with_the_same_text_of_their_base(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = project_on(teach(tiny_model_folder, tmp_path / "taught"), tmp_path / "project")
    assert check_variant(load_settings(folder), KEYS[0])["sources"] == 1
    said: list[str] = []
    mixtures = [mixed(folder, key, said) for key in KEYS]
    assert [line.split(maxsplit=2)[2] for line in said if line.startswith("base_text")] == [
        "made", "reused, no work done",
    ]  # fmt: skip
    assert mixtures[0][1].inputs["general_corpus"] == mixtures[1][1].inputs["general_corpus"]
    assert len(mixtures[0][0].store.names("shared/base_text")) == 1
    for workspace, mixture in mixtures:
        figures = MixtureFigures.of(mixture)
        assert figures.general_share.realized == pytest.approx(0.08, abs=0.01)
        assert "general:sampled from the base" in figures.train.by_source
        assert held_out_documents(workspace.payload(mixture)) >= 72  # as many as a margin of 0.1 nats takes
        check_tree(workspace.evidence(mixture), present(TreeHead.of(mixture.figures)), None)
        checks = {check.name: check for check in training_mixture.judge(workspace, mixture)}
        assert checks["own_records"].figures == {"files": 1}
    text = mixtures[0][0].make(STAGE)
    head, folder = present(TreeHead.of(text.figures)), mixtures[0][0].evidence(text)
    check_tree(folder, head, keys_of(mixtures[0][0].settings.keys_folder, SHARED_OWNER).current)
    assert head.size == text.figures["texts"]
    recipe, inputs = mixtures[0][0].recipe(STAGE)
    assert (inputs.documents, inputs.tokens) == (512, 128)
    more = {"from": "base", "share": 0.08, "texts": 600}
    project = mixtures[0][0].project
    edit(project / "tenants/acme/places.yaml", lambda declared: declared["data"].update(general=more))
    again = Workspace(load_settings(project), KEYS[0], RunOf("test", "test", said.append))
    again.make(declaration.STAGE)
    asked, inputs = again.recipe(STAGE)
    assert inputs.documents == 600
    assert asked.place != recipe.place


@pytest.mark.long
def test_a_base_that_samples_garbage_ends_the_run_before_anything_is_trained(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = project_on(tiny_model_folder, tmp_path / "project")
    with pytest.raises((UserError, ProgramFailed), match="the base samples garbage"):
        mixed(folder, KEYS[0], [])


@pytest.mark.parametrize(
    ("general", "said"),
    [
        ({}, "name either a corpus or `from: base`"),
        ({"corpus": "general", "from": "base"}, "name either a corpus or `from: base`"),
        ({"from": "elsewhere"}, "Input should be 'base'"),
        ({"from": "base", "texts": 63}, "greater than or equal to 64"),
    ],
)
def test_general_text_has_one_origin(general: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VariantSpec.model_validate({**PLAIN, "data": {"sources": ["s"], "general": general}})


def test_a_declaration_is_read_as_it_was_frozen() -> None:
    data = {"sources": ["s"], "general": {"from": "base"}}
    spec = VariantSpec.model_validate({**PLAIN, "data": data})
    assert VariantSpec.model_validate(spec.model_dump(mode="json")) == spec
