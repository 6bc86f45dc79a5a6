"""docs/policy.md: its YAML is accepted as written."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ft_dagster.settings import load_settings
from ft_dagster.spec.data import DataSpec
from ft_dagster.spec.policy import PolicyFile, load_policies

PAGE = (Path(__file__).parents[2] / "docs/policy.md").read_text("utf-8")


def test_its_examples_are_accepted(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    policy, settings, transforming, declared = (yaml.safe_load(block) for block in blocks)
    [source] = DataSpec.model_validate(declared["data"]).sources
    assert source.transform in transforming["sources"]["functions"]
    assert set(policy) <= set(PolicyFile.model_fields)
    (tmp_path / "tenants").mkdir()
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump(settings))
    assert load_policies(tmp_path).of("acme").gates.undecided == "measured"
    roots = load_settings(tmp_path).roots("acme")
    assert roots.may_read("/srv/acme/rows.jsonl")
    assert roots.may_fetch("s3://data/acme/rows.jsonl")
    assert str(tmp_path / "tasks/scoring.py") in roots.functions
