"""What a stage may read, and what moves its key: a table that a person wrote, field by field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.model import UnlistedField
from ft_dagster.spec.narrow import narrowed
from ft_dagster.stages import probe, task_dataset
from ft_dagster.stages.base_evaluation import GENERAL_SCORES
from ft_dagster.store import Artifact, find_artifact
from ft_dagster.versions.causes import is_other
from ft_dagster.versions.look import FoundNow, Look
from ft_dagster.versions.now import parts_now
from ft_dagster.versions.version_artifacts import version_artifacts
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.input_view import UnlistedStage, View
from ft_dagster.workspace.keyed_inputs import RECORDED, UNKNOWN, Digest, File, Part, key_parts
from ft_dagster.workspace.questions import OwnTask
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace
from tests.long import mostly_long
from tests.security.pretend import Pretend
from tests.stages.changed import changed
from tests.stages.keyed_fields import (
    ALL,
    ASKED,
    AUTO,
    BASE,
    ELSEWHERE,
    ENGINE,
    MIXED,
    MOVED,
    NOTHING,
    PLAN,
    PROBED,
    RECORDED_FIELDS,
    SCORES,
    TABLE,
    THROUGH,
    WITH,
)

Keys = Callable[[Mapping[str, Any]], Sequence[str]]


def leaves(tree: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(tree, dict) or not tree:
        yield prefix
        return
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}.{name}".removeprefix("."))


def key_of(workspace: Workspace, stage: Stage[Any]) -> str:
    """The stage's key over the artifacts that are upstream; or what it refuses."""
    try:
        return workspace.recipe(stage)[0].place.path
    except UserError as error:
        return f"refused: {error.problem}"


@pytest.fixture(scope="module")
def chained(chained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy in which programs are pretended: where questions change, production is asked them for a key."""
    project = shutil.copytree(chained.project, tmp_path_factory.mktemp("keyed") / "project")
    return Workspace(load_settings(project), chained.key, chained.run, launcher=Pretend())


@pytest.fixture(scope="module")
def keys(chained: Workspace) -> Keys:
    """The key of each of `MOVED` where these fields are declared too; of the same fields derived once."""

    @cache
    def derived(overrides: str) -> list[str]:
        workspace = changed(chained, json.loads(overrides))
        return [key_of(workspace, stage) for stage in MOVED]

    return lambda overrides: derived(json.dumps(overrides))


def moved(before: Sequence[str], after: Sequence[str]) -> set[str]:
    return {stage.name for stage, key, other in zip(MOVED, before, after, strict=True) if key != other}


@pytest.mark.slow
@pytest.mark.parametrize("field", mostly_long(TABLE, every=3))
def test_a_changed_field_moves_the_keys_of_the_table(keys: Keys, field: str) -> None:
    value, expected = TABLE[field]
    context = WITH.get(field, {})
    assert moved(keys(context), keys({**context, field: value})) - {"declaration"} == expected


@pytest.mark.slow
@pytest.mark.parametrize("field", mostly_long(AUTO, every=3))
def test_what_auto_chooses_by_moves_the_key_of_the_plan(keys: Keys, field: str) -> None:
    auto = {"method.name": "auto", "method.rank": None}
    assert PLAN in moved(keys(auto), keys({**auto, field: AUTO[field]}))


@pytest.mark.slow
@pytest.mark.parametrize(("field", "value", "over", "moves"), mostly_long(PROBED, every=3))
def test_a_probe_is_made_again_for_what_can_change_it_alone(
    chained: Workspace, field: str, value: Any, over: dict[str, Any], moves: bool
) -> None:
    context = {**over, **WITH.get(field, {})}
    before, after = (
        key_of(changed(chained, deepcopy(declared)), probe.STAGE)
        for declared in (context, {**context, field: value})
    )
    assert "refused" not in before + after
    assert (before != after) is moves


Seen = Callable[[Mapping[str, Any], Mapping[str, Any], Stage[Any]], tuple[Artifact, dict[str, Part]]]


@pytest.fixture(scope="module")
def seen(chained: Workspace) -> Seen:
    """An artifact by the key that a stage has where the first fields are declared, and the parts that it
    would have by the others, as `difference` tells them.
    """
    version = version_artifacts(chained.store, chained.prefix)
    at = cache(lambda overrides: changed(chained, json.loads(overrides)))
    recipes = cache(lambda overrides, number: at(overrides).recipe(ALL[number])[0])

    def look(
        before: Mapping[str, Any], after: Mapping[str, Any], stage: Stage[Any]
    ) -> tuple[Artifact, dict[str, Part]]:
        recipe, now = recipes(json.dumps(before), ALL.index(stage)), at(json.dumps(after))
        keyed = {"inputs": recipe.inputs, "spec": recipe.spec, "digest": "", "payload": [], "evidence": []}
        made = find_artifact(chained.store, recipe.place) or Artifact(recipe.place, {**keyed, "figures": {}})
        there = {each.place.stage: each for each in recipe.artifacts} | {**version.artifacts}
        of = version._replace(artifacts=there)
        declared = replace(chained.declared(), spec=now.spec)
        return made, parts_now(Look(chained, declared, of, FoundNow(now.frozen["tasks"]), made))

    return look


@pytest.mark.slow
@pytest.mark.parametrize("stage", MOVED, ids=lambda stage: stage.name)
def test_the_parts_that_are_told_of_a_stage_are_those_of_its_key(seen: Seen, stage: Stage[Any]) -> None:
    """What is not told follows from files, or stands for a base as it was found."""
    made, parts = seen({}, {}, stage)
    told = {name for name, part in parts.items() if part.value is not None and part.value is not UNKNOWN}
    assert told <= {*made.inputs, *made.spec} <= parts.keys()
    assert not [name for name, part in parts.items() if is_other(made, name, part)]
    for part in parts.values():
        assert part.value is not UNKNOWN or part.kind == "derived" or stage.name == BASE


@pytest.mark.slow
@pytest.mark.parametrize("field", TABLE)
def test_a_changed_field_is_told_of_the_stages_whose_key_it_moves(seen: Seen, field: str) -> None:
    value, expected = TABLE[field]
    context = WITH.get(field, {})
    told = set()
    for stage in MOVED:
        made, parts = seen(context, {**context, field: value}, stage)
        told |= {stage.name} if any(is_other(made, *part) for part in parts.items()) else set()
    assert told == expected - THROUGH.get(field, NOTHING)


@pytest.mark.slow
@pytest.mark.parametrize(("field", "value", "over", "moves"), PROBED)
def test_a_changed_field_is_told_of_a_probe_if_it_moves_its_key(
    seen: Seen, field: str, value: Any, over: dict[str, Any], moves: bool
) -> None:
    context = {**over, **WITH.get(field, {})}
    made, parts = seen(context, {**context, field: value}, probe.STAGE)
    assert any(is_other(made, *part) for part in parts.items()) is moves


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "moved"),
    [
        ({}, None),
        ({"instruction": "question", "output": "label"}, None),
        ({"prompt": "input", "completion": "output"}, None),
        ({"instruction": "input", "input": "system", "output": "answer"}, ["system"]),
        ({"instruction": "input", "output": "answer"}, ["input"]),
    ],
)
def test_rows_of_which_a_column_was_read_twice_are_read_again_and_no_others(
    chained: Workspace, fields: dict[str, str], moved: list[str] | None
) -> None:
    declared = {"data.sources": [{"path": "data/rows.jsonl", "fields": fields}]}
    recipe, _ = changed(chained, declared).recipe(task_dataset.STAGE)
    assert recipe.spec.get("moved") == moved


@pytest.mark.slow
def test_a_base_is_asked_again_where_it_declares_other_ends(
    chained: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = chained.base_folder(chained.upstream("base_model"))
    before = chained.recipe(GENERAL_SCORES)[0]
    base = shutil.copytree(folder, tmp_path / "base")
    monkeypatch.setattr(Workspace, "base_folder", lambda self, of: base)
    for ends, said in ((2, [2]), ([2], [2]), ([2, 0], [0, 2])):
        (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), "utf-8")
        assert chained.recipe(GENERAL_SCORES)[0].spec == {**before.spec, "ends": said}
    (base / "generation_config.json").unlink()
    assert "ends" not in chained.recipe(GENERAL_SCORES)[0].spec


@pytest.mark.slow
def test_what_a_stage_reads_is_kept_from_retention_while_it_is_built(chained: Workspace) -> None:
    """Each artifact that a key names: see `store.removal.kept_in_use`."""
    recipes = [chained.recipe(stage)[0] for stage in ALL if not key_of(chained, stage).startswith("refused")]
    for recipe in recipes:
        assert [artifact.manifest for artifact in recipe.artifacts] == list(recipe.manifests.values())
    read = {artifact.place.stage for recipe in recipes for artifact in recipe.artifacts}
    assert {"base_model", "task_dataset", "training_mixture", PLAN} <= read


def test_the_table_has_every_field(chained_spec: VariantSpec) -> None:
    known = {*TABLE, *ELSEWHERE}
    for leaf in leaves(chained_spec.model_dump(mode="json")):
        assert any(leaf == field or leaf.startswith(f"{field}.") for field in known), leaf


@pytest.fixture
def chained_spec() -> VariantSpec:
    plain = {"description": "d", "owners": ["o"], "base_model": "b", "data": {"sources": ["s"]}}
    return VariantSpec.model_validate(plain)


def unlisted(stage: Stage[Any], spec: VariantSpec) -> str:
    """A field that the stage does not list."""
    whole = leaves(spec.model_dump(mode="json"))
    return next(
        leaf for leaf in whole
        if not any(leaf == f or leaf.startswith(f"{f}.") or f.startswith(f"{leaf}.") for f in stage.fields)
    )  # fmt: skip


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_a_field_that_a_stage_does_not_list_cannot_be_read(
    stage: Stage[Any], chained_spec: VariantSpec
) -> None:
    field = unlisted(stage, chained_spec)
    with pytest.raises(UnlistedField):
        attrgetter(field)(narrowed(chained_spec, stage.fields))


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_a_stage_that_is_not_listed_cannot_be_asked(stage: Stage[Any], tmp_path: Path) -> None:
    view = View(None, stage)  # type: ignore[arg-type]  # refused before the workspace is touched
    with pytest.raises(UnlistedStage):
        view.upstream("release")


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_the_inputs_that_enter_no_key_are_those_of_the_list(stage: Stage[Any]) -> None:
    inputs = get_type_hints(stage.inputs)["return"]
    marked = {each.name for each in fields(inputs) if RECORDED in each.metadata}
    if get_type_hints(inputs).get("engine") is Engine:
        marked |= {f"engine.{each.name}" for each in fields(Engine) if RECORDED in each.metadata}
    asked = get_type_hints(inputs).get("task")
    if OwnTask in (asked, *get_args(asked)):
        marked |= {f"task.{each.name}" for each in fields(OwnTask) if RECORDED in each.metadata}
    listed = {
        **RECORDED_FIELDS.get(stage.name, {}),
        **(ENGINE if stage.name in {*ASKED, SCORES, "base_refusal_answers", "refusal_answers"} else {}),
    }
    listed |= MIXED if stage.name in ASKED else {}
    assert marked == set(listed)


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
def test_the_inputs_of_a_stage_cannot_be_changed(stage: Stage[Any]) -> None:
    inputs = get_type_hints(stage.inputs)["return"]
    assert is_dataclass(inputs)
    assert vars(inputs)["__dataclass_params__"].frozen


@dataclass(frozen=True)
class Inner:
    rows: File


@dataclass(frozen=True)
class Outer:
    name: str
    digest: Digest
    inner: Inner
    absent: str | None = None


def test_each_kind_of_input_enters_the_key(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text("rows")
    first = key_parts(Outer("a", Digest("0" * 64), Inner(File.of(file))))
    assert first.spec == {"name": "a"}
    assert set(first.inputs) == {"digest", "inner.rows"}
    moved_file = tmp_path / "elsewhere"
    moved_file.write_text("rows")
    assert key_parts(Outer("a", Digest("0" * 64), Inner(File.of(moved_file)))) == first
