"""Submitting a run: what the command line imports for it, and what it says where it cannot."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from ft_dagster.automation.jobs import JOB
from ft_dagster.automation.processes.instance import (
    LOCATION,
    REPOSITORY,
    launch,
    open_instance,
    workspace_file,
    write_home,
)
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from tests.automation.declarations import declare
from tests.present import present

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_graphql_is_not_imported_to_submit_a_run() -> None:
    program = (
        "import sys, ft_dagster.automation.processes.instance, ft_dagster.cli.runs\n"
        "print([name for name in ('graphene', 'dagster_graphql', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.long
def test_a_run_is_what_a_code_server_says_of_the_job_though_none_is_started_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.setenv("FT_DAGSTER_PROJECT", "")
    declare(tmp_path, "acme.support")
    settings, before = load_settings(tmp_path), _children()
    with open_instance(settings) as instance:
        [launched] = launch(instance, settings, [VariantKey("acme", "support")], "test")
        assert _children() <= before
        run = present(instance.get_run_by_id(launched.run_id))
        target = WorkspaceFileTarget([str(workspace_file(settings))])
        with WorkspaceProcessContext(instance, target) as process:
            workspace = process.create_request_context()
            job = workspace.get_code_location(LOCATION).get_repository(REPOSITORY).get_full_job(JOB)
            plan = workspace.get_execution_plan(job, {}, None, None).execution_plan_snapshot
    assert run.remote_job_origin == job.get_remote_origin()
    assert run.job_code_origin == job.get_python_origin()
    assert run.job_snapshot_id == job.identifying_job_snapshot_id
    assert run.step_keys_to_execute == plan.step_keys_to_execute


def _children() -> set[psutil.Process]:
    """Return the programs of Python that run below this one; the servers of other tests have programs too."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "python" in process.name():
                found.add(process)
    return found


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
