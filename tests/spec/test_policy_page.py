"""docs/policy.md: what it calls built in is, and its YAML is accepted as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ft_dagster.settings import load_settings
from ft_dagster.spec.policy import Policy, PolicyFile, load_policies
from ft_dagster.spec.variant import DataSpec

PAGE = (Path(__file__).parents[2] / "docs/policy.md").read_text("utf-8")
WORDS = {"none": None, "anyone": (), "all": ()}


def value_of(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = getattr(tree, name)
    return tree


def test_the_built_in_values_of_the_table_are_those_that_hold() -> None:
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    said = {name.strip("` "): cell.strip("` ") for names, cell in rows for name in names.split(",")}
    for path, cell in said.items():
        built_in = value_of(Policy(), path)
        assert built_in == (WORDS[cell] if cell in WORDS else type(built_in)(cell)), path
    assert {path.split(".")[0] for path in said} == set(Policy.model_fields)


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
