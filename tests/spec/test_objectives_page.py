"""The declarations on docs/objectives.md are real ones, one of each objective and kind."""

import re
from pathlib import Path

import yaml

from ft_dagster.spec import VariantSpec

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


def test_every_declaration_on_the_page_is_accepted() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    specs = [VariantSpec.model_validate(yaml.safe_load(block)) for block in blocks]
    assert [(spec.objective, spec.evaluation.kind) for spec in specs] == [
        ("instruction", "text"),
        ("domain_knowledge", "text"),
        ("task_specific", "label"),
        ("task_specific", "json"),
        ("task_specific", "sql"),
    ]
