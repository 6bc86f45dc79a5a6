"""A method and an export format that do not go together are refused where they are declared."""

import pytest
from pydantic import ValidationError

from ft_dagster.spec.formats import export_problem
from ft_dagster.spec.variant import VariantSpec
from tests.present import present

DECLARED = {
    "description": "answers",
    "owners": ["ml@acme.example"],
    "base_model": "models/base",
    "data": {"sources": ["rows.jsonl"]},
}


@pytest.mark.parametrize(
    ("method", "format", "way_out"),
    [
        ("full", "adapter", "export: merged"),
        ("prompt_tuning", "merged", "export: adapter"),
        ("prefix_tuning", "merged", "export: adapter"),
    ],
)
def test_a_format_that_the_method_cannot_have_is_refused_with_the_way_out(
    method: str, format: str, way_out: str
) -> None:
    assert way_out in present(export_problem(method, format))
    with pytest.raises(ValidationError, match=way_out):
        VariantSpec.model_validate({**DECLARED, "method": method, "export": format})


@pytest.mark.parametrize(
    ("method", "format"),
    [
        ("full", "merged"),
        ("lora", "adapter"),
        ("lora", "merged"),
        ("qlora", "merged"),
        ("lora_8bit", "adapter"),
        ("prompt_tuning", "adapter"),
        ("auto", "adapter"),
        ("auto", "merged"),
    ],
)
def test_every_other_pair_is_declared_as_asked(method: str, format: str) -> None:
    assert export_problem(method, format) is None
    spec = VariantSpec.model_validate({**DECLARED, "method": method, "export": format})
    assert (spec.method.name, spec.export.format) == (method, format)
