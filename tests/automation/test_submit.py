"""Submitting a run: what the command line imports for it, and what it says where it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ft_dagster.automation.instance import LOCATION, launch, open_instance, workspace_file, write_home
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey

pytestmark = pytest.mark.slow


def test_graphql_is_not_imported_to_submit_a_run() -> None:
    program = (
        "import sys, ft_dagster.automation.instance, ft_dagster.cli.runs\n"
        "print([name for name in ('graphene', 'dagster_graphql', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_code_location_that_does_not_load_is_one_line_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    (tmp_path / "ft_dagster.yaml").touch()
    (tmp_path / "tenants").mkdir()
    settings = load_settings(tmp_path)
    write_home(settings)
    broken = {"python_module": {"module_name": "no_such_module", "location_name": LOCATION}}
    workspace_file(settings).write_text(yaml.safe_dump({"load_from": [broken]}))
    with open_instance(settings) as instance, pytest.raises(UserError) as refused:
        list(launch(instance, settings, [VariantKey("acme", "support")], "test"))
    assert "No module named 'no_such_module'" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert instance.get_runs_count() == 0
