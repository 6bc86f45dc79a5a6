from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey, VariantSpec, load_variant
from ft_dagster.spec.variant import METHOD_SETTINGS, MethodName
from tests.present import present

GIVEN = {
    "rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj"],
    "use_rslora": True, "use_dora": True, "num_virtual_tokens": 20,
}  # fmt: skip
MINIMAL = "description: x\nowners: [a]\nbase_model: b\ndata: {sources: [r.jsonl]}\n"


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
