"""docs/operations.md: its YAML is accepted as written, and the lines it explains are those that are said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ft_dagster.automation.processes.instance import dagster_yaml
from ft_dagster.host_settings import Host
from ft_dagster.launch.local import classify
from ft_dagster.launch.queue import OVERTAKES
from ft_dagster.settings import Retries, Settings
from ft_dagster.spec.variant import ResourcesSpec

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")


def blocks() -> dict[str, Any]:
    """Each YAML block of the page by its one key."""
    found: dict[str, Any] = {}
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        found.update(yaml.safe_load(text))
    return found


def test_what_it_declares_is_accepted() -> None:
    given = blocks()
    ResourcesSpec.model_validate(given["resources"])
    Host.model_validate(given["host"])
    assert Retries.model_validate(given["retries"]) == Retries()
    own = dagster_yaml(Settings(project=ROOT))
    for name in ("run_launcher", "run_monitoring", "run_retries"):
        assert given[name] == own[name]


def test_the_waits_it_names_are_those_of_the_defaults() -> None:
    waits = [Retries().wait(tried) for tried in range(Retries().attempts)]
    assert waits == [10, 20, 40]
    assert "after 10, 20 and 40 s" in PAGE


def test_what_it_says_of_the_process_that_stays_is_the_default() -> None:
    assert f"`host.warm_idle_seconds` ({Host().warm_idle_seconds:.0f})" in PAGE


def test_it_explains_what_the_launcher_says() -> None:
    said = [classify(code).happened for code in (75, 128 + 9, 128 + 11, 1)]
    for line in said:
        assert f"`{line.split(':')[0]}" in PAGE, line


def test_what_it_says_of_the_order_of_service_holds() -> None:
    assert f"passes at most {OVERTAKES}" in PAGE


def test_the_tests_it_names_exist() -> None:
    """`file::test`, and `::test` of the file named before it."""
    named, file = [], ""
    for place, test in re.findall(r"`((?:tests/[\w/]+\.py|traps)?)::(\w+)`", PAGE):
        file = place.replace("traps", "tests/e2e/test_dagster_traps.py") or file
        named.append((file, test))
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
