"""What writes the answers that are judged, and that nothing is compared across two engines."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.methods.full import FullSettings
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.methods.prefix_tuning import PrefixSettings
from ft_dagster.methods.prompt_tuning import PromptSettings
from ft_dagster.settings import EvaluationSettings, Settings
from ft_dagster.stages import base_evaluation, evaluation, model_export, training_plan
from ft_dagster.stages.judging.verdicts import asked_alike
from ft_dagster.workspace.answer_engine import Engine, may_be_vllm, not_by_vllm, without_room
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace

LORA = LoraSettings().model_dump()


@pytest.fixture(scope="module")
def with_vllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with a package of that name."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "vllm").mkdir()
    (packages / "vllm" / "__init__.py").touch()
    return folder / "bin" / "python"


def settings(project: Path, **evaluation: Any) -> Settings:
    return Settings(project=project, evaluation=EvaluationSettings(**evaluation))


def test_auto_takes_vllm_on_a_gpu_where_it_is_installed_and_nowhere_else(
    tmp_path: Path, with_vllm: Path
) -> None:
    there, absent = settings(tmp_path, engine="auto", vllm=with_vllm), settings(tmp_path, engine="auto")
    assert may_be_vllm(there, "cuda")
    assert not may_be_vllm(settings(tmp_path, vllm=with_vllm), "cuda")  # unless it is asked for
    assert not may_be_vllm(there, "cpu")
    assert not may_be_vllm(absent, "cuda")
    assert not may_be_vllm(settings(tmp_path, engine="transformers", vllm=with_vllm), "cuda")
    assert not may_be_vllm(settings(tmp_path, engine="auto", vllm="of/the/gpu/host"), "cpu")


def test_a_declared_engine_answers_on_a_cpu_too(tmp_path: Path, with_vllm: Path) -> None:
    assert may_be_vllm(settings(tmp_path, engine="vllm", vllm=with_vllm), "cpu")


@pytest.mark.parametrize(
    ("engine", "named"), [("vllm", None), ("vllm", "nowhere/bin/python"), ("auto", "nowhere/bin/python")]
)
def test_vllm_that_is_declared_and_not_installed_is_refused(
    tmp_path: Path, engine: str, named: str | None
) -> None:
    with pytest.raises(UserError) as error:
        may_be_vllm(settings(tmp_path, engine=engine, vllm=named), "cuda")
    assert error.value.field == ("evaluation.engine" if named is None else "evaluation.vllm")
    assert error.value.value == (named or "vllm")
    assert str(tmp_path / "ft_dagster.yaml") == error.value.file
    assert "evaluation.engine: transformers" in str(error.value.fix)


def test_it_is_refused_before_anything_is_trained(chained: Workspace) -> None:
    evaluation = EvaluationSettings(engine="vllm")
    workspace = replace(chained, settings=chained.settings.model_copy(update={"evaluation": evaluation}))
    with pytest.raises(UserError, match="vLLM is not installed"):
        training_plan.STAGE.refuse(workspace)


@pytest.mark.parametrize(
    ("method", "new_tokens", "why"),
    [
        (FullSettings().model_dump(), False, None),
        (FullSettings().model_dump(), True, "tokens were added"),
        (LORA, False, None),
        ({**LORA, "use_rslora": True}, False, None),
        (LORA, True, "tokens were added"),
        ({**LORA, "use_dora": True}, False, "DoRA"),
        ({**LORA, "rank": 1024}, False, "rank 1024"),
        ({**LORA, "name": "qlora"}, False, "quantized base"),
        ({**LORA, "name": "lora_8bit"}, False, "quantized base"),
        (PromptSettings(name="prompt_tuning").model_dump(), False, "prompt or prefix"),
        (PrefixSettings(name="prefix_tuning").model_dump(), False, "prompt or prefix"),
    ],
)
def test_what_vllm_does_not_load_is_answered_by_transformers_with_the_reason(
    method: dict[str, Any], new_tokens: bool, why: str | None
) -> None:
    said = not_by_vllm(method, new_tokens=new_tokens)
    assert said is None if why is None else why in str(said)


def test_a_base_that_does_not_fit_twice_is_answered_by_transformers() -> None:
    assert without_room(8_000_000_000, "bfloat16", 80_000_000_000) is None
    assert without_room(8_000_000_000, "float32", None) is None
    assert "do not fit" in str(without_room(8_000_000_000, "bfloat16", 24_000_000_000))


def test_another_engine_is_another_key_and_transformers_are_in_none(
    chained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: tuple[Stage[Any], ...] = (evaluation.STAGE, base_evaluation.GENERAL_SCORES)
    plain = [chained.recipe(stage)[0] for stage in stages]
    assert not any("engine" in name for recipe in plain for name in (*recipe.spec, *recipe.inputs))
    monkeypatch.setattr(Workspace, "engine", Engine(reason="it is a DoRA adapter"))
    assert [chained.recipe(stage)[0].place for stage in stages] == [recipe.place for recipe in plain]
    monkeypatch.setattr(Workspace, "engine", Engine("vllm", Path("python")))
    for stage, recipe in zip(stages, plain, strict=True):
        now = chained.recipe(stage)[0]
        assert now.place != recipe.place
        assert now.spec == {**recipe.spec, "engine.name": "vllm"}


def test_an_export_is_judged_by_the_engine_of_its_evaluation(
    chained: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = chained.recipe(model_export.STAGE)[0]
    monkeypatch.setattr(Workspace, "engine", Engine("vllm", Path("python")))
    monkeypatch.setattr(model_export, "rejudge", lambda *_: SimpleNamespace(passed=True))
    recipe, inputs = chained.recipe(model_export.STAGE)
    assert (recipe.place, inputs.engine.name) == (plain.place, None)
    assert chained.engine_of({"engine.name": "vllm"}).name == "vllm"


def test_vllm_is_found_once_it_is_installed(tmp_path: Path) -> None:
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    named = settings(tmp_path, engine="vllm", vllm=folder / "bin" / "python")
    with pytest.raises(UserError, match="not installed"):
        may_be_vllm(named, "cpu")
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)})) / "vllm"
    packages.mkdir()
    (packages / "__init__.py").touch()
    assert may_be_vllm(named, "cpu")


def test_evaluations_by_two_engines_are_not_compared(chained: Workspace) -> None:
    judged = chained.upstream("evaluation")
    spec = {**judged.spec, "engine.name": "vllm"}
    other = replace(judged, predicate={**judged.predicate, "spec": spec})
    assert asked_alike(judged, judged)
    assert not asked_alike(judged, other)
