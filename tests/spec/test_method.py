from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.schema_version import STORED
from ft_dagster.spec import VariantKey, VariantSpec, load_variant
from ft_dagster.spec.method import METHOD_SETTINGS, MethodName
from ft_dagster.spec.narrow import shown
from tests.present import present

GIVEN = {
    "rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj"],
    "use_rslora": True, "use_dora": True, "init_lora_weights": "gaussian", "num_virtual_tokens": 20,
}  # fmt: skip
MINIMAL = "description: x\nowners: [a]\nbase_model: b\ndata: {sources: [r.jsonl]}\n"
PLAIN = {"description": "x", "owners": ["a"], "base_model": "b", "data": {"sources": ["r.jsonl"]}}


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., UserError]:
    """The error of a declaration, with tenants/defaults.yaml beneath it."""

    def load(own: str, defaults: str = "") -> UserError:
        (tmp_path / "tenants" / "acme").mkdir(parents=True)
        (tmp_path / "tenants" / "defaults.yaml").write_text(defaults or "export: adapter\n")
        (tmp_path / "tenants" / "acme" / "support.yaml").write_text(MINIMAL + own)
        with pytest.raises(UserError) as error:
            load_variant(tmp_path, VariantKey("acme", "support"))
        return error.value

    return load


@pytest.mark.parametrize(
    ("own", "field", "value", "words"),
    [
        ("method: {name: lora, rank: best}\n", "method.rank", "best", "integer"),
        ("method: {name: lora, rank: 0}\n", "method.rank", 0, "greater than or equal to 1"),
        ("evaluation: {limit: many}\n", "evaluation.limit", "many", "'auto'"),
        ("method: {name: lora, init_lora_weights: eva}\n", "method.init_lora_weights", "eva", "'pissa'"),
        (
            "method: {name: qlora, init_lora_weights: pissa}\n",
            "method.init_lora_weights",
            "pissa",
            "quantized",
        ),
        (
            "method: {name: lora, use_dora: true, init_lora_weights: olora}\n",
            "method.init_lora_weights",
            "olora",
            "use_dora",
        ),
        (
            "method: {rank: 3, init_lora_weights: orthogonal}\n",
            "method.init_lora_weights",
            "orthogonal",
            "even rank",
        ),
    ],
)
def test_a_value_that_is_neither_a_number_nor_auto_is_one_error(
    own: str, field: str, value: object, words: str, refusal: Callable[..., UserError]
) -> None:
    error = refusal(own)
    assert (error.field, error.value) == (field, value)
    assert words in f"{error.problem} {error.fix}"


def test_a_rate_may_be_left_open_in_a_word_and_is_then_left_out(refusal: Callable[..., UserError]) -> None:
    said = VariantSpec.model_validate({**PLAIN, "training": {"learning_rate": "auto"}})
    assert said == VariantSpec.model_validate(PLAIN)
    assert shown(said) == shown(VariantSpec.model_validate(PLAIN))
    schema = VariantSpec.model_json_schema()["$defs"]["TrainingSpec"]["properties"]["learning_rate"]
    assert {"const": "auto", "type": "string"} in schema["anyOf"]
    error = refusal("training: {learning_rate: fast}\n")
    assert (error.field, error.value) == ("training.learning_rate", "fast")


@pytest.mark.parametrize("share", ["much", "0.9", "-1", "true"])
def test_a_share_that_is_none_is_one_error(share: str, refusal: Callable[..., UserError]) -> None:
    error = refusal("", f"data: {{general: {{corpus: c, share: {share}}}}}\n")
    assert error.field == "data.general.share"


@pytest.mark.parametrize("method", METHOD_SETTINGS)
@pytest.mark.parametrize("setting", GIVEN)
def test_a_method_takes_its_own_settings_and_no_others(
    method: MethodName, setting: str, refusal: Callable[..., UserError]
) -> None:
    declared = f"method: {{name: {method}, {setting}: {GIVEN[setting]}}}\n".replace("True", "true")
    if setting in METHOD_SETTINGS[method]:
        whole = {"description": "x", "owners": ["a"], "base_model": "b", "data": {"sources": ["r"]}}
        VariantSpec.model_validate({**whole, "method": {"name": method, setting: GIVEN[setting]}})
        return
    error = refusal(declared)
    assert error.field == f"method.{setting}"
    assert f"not a setting of {method}" in error.problem
    assert "leave it out, or name" in error.problem


def test_a_setting_from_the_defaults_is_refused_in_the_defaults(refusal: Callable[..., UserError]) -> None:
    error = refusal("method: {name: full}\n", "method: {rank: 16}\n")
    assert present(error.file).endswith("defaults.yaml")
    assert error.value == 16


def test_a_frozen_declaration_of_every_method_is_read_again() -> None:
    for method in METHOD_SETTINGS:
        whole = {"description": "x", "owners": ["a"], "base_model": "b", "data": {"sources": ["r"]}}
        export = "merged" if method == "full" else "adapter"
        declared = VariantSpec.model_validate({**whole, "method": method, "export": export})
        assert VariantSpec.model_validate(declared.model_dump(mode="json")) == declared


FORMER = [
    ("method: {name: lora, rank: auto}\n", "", "method.rank", "by objective and examples"),
    ("", "data: {sources: [r], general: {corpus: c, share: auto}}\n", "data.general.share", "0.08"),
]


@pytest.mark.parametrize(("own", "defaults", "field", "usual"), FORMER)
def test_the_former_word_auto_is_refused_with_the_way_out(
    own: str, defaults: str, field: str, usual: str, refusal: Callable[..., UserError]
) -> None:
    error = refusal(own, defaults)
    assert (error.field, error.value) == (field, "auto")
    assert "no plan chooses it" in error.problem
    assert "`ft-dagster check`" in str(error.fix)
    assert usual in str(error.fix)


def test_a_frozen_declaration_with_the_former_word_is_read_by_what_is_usual() -> None:
    content = {
        "description": "d", "owners": ["o"], "base_model": "b", "method": {"name": "lora", "rank": "auto"},
        "data": {"sources": ["r"], "general": {"corpus": "c", "share": "auto"}},
    }  # fmt: skip
    spec = VariantSpec.model_validate(content, context=STORED)
    assert "rank" not in spec.method.given
    assert spec.data.general is not None
    assert spec.data.general.share == 0.08
