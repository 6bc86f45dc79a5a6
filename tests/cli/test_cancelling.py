"""What `ft-dagster cancel` ends, and what it says of runs that have ended."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.automation.processes import instance as instance_module
from ft_dagster.automation.processes.instance import failure_of, open_instance
from ft_dagster.automation.processes.unfinished import come_to_each_failure
from ft_dagster.automation.run_launcher import Machine, here, tell_launch
from ft_dagster.automation.tags import NOBODY, PROJECT_VARIANT, VARIANT
from ft_dagster.cli import app
from ft_dagster.dagster_private import RETRIED_BY, WILL_RETRY, EngineEventData
from ft_dagster.exit_codes import FAILED
from ft_dagster.report.sentences.next_step import next_of_state
from ft_dagster.settings import load_settings
from tests.automation.declarations import declare
from tests.instances import ORIGIN
from tests.present import present

pytestmark = pytest.mark.slow
STATUS = dg.DagsterRunStatus
KEY = "acme.places"


@dg.job
def variant_chain() -> None:
    """Nothing of it is run."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    declare(tmp_path, KEY)
    return tmp_path


@pytest.fixture
def instance(project: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(load_settings(project)) as instance:
        yield instance


def run_of(instance: dg.DagsterInstance, status: STATUS) -> dg.DagsterRun:
    tags = {VARIANT: KEY}
    return instance.create_run_for_job(variant_chain, status=status, tags=tags, remote_job_origin=ORIGIN)


def cancel(project: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["--project", str(project), "cancel", *words])


def test_a_queued_run_and_one_whose_process_was_killed_are_cancelled_and_what_is_kept_is_said(
    project: Path, instance: dg.DagsterInstance
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    killed, queued = run_of(instance, STATUS.STARTED), run_of(instance, STATUS.QUEUED)
    tell_launch(instance, killed, present(here()))
    instance.report_engine_event("Started process for run", killed, EngineEventData.in_process(ended.pid))
    done = cancel(project, KEY, "--json")
    assert done.exit_code == 0, done.output
    runs = json.loads(done.stdout)["runs"]
    assert [(run["run_id"], run["run_status"]) for run in runs] == [
        (each.run_id, "CANCELED") for each in (killed, queued)
    ]
    assert f"is kept: `ft-dagster run {KEY}` goes on from there" in runs[0]["message"]


def test_where_nothing_runs_it_says_so_in_one_line_as_often_as_it_is_asked(
    project: Path, instance: dg.DagsterInstance
) -> None:
    run = run_of(instance, STATUS.QUEUED)
    assert cancel(project, run.run_id[:8]).exit_code == 0
    again, named = cancel(project, run.run_id[:8]), cancel(project, KEY)
    assert (again.exit_code, named.exit_code) == (0, 0)
    assert again.stdout == f"{KEY}: run {run.run_id[:8]} had ended before (canceled): nothing to cancel\n"
    assert named.stdout == f"{KEY}: no run of it waits or is in progress\n"


@pytest.mark.parametrize("name", ["acme.nope", "0123abcd"])
def test_a_name_that_nothing_has_is_refused(project: Path, instance: dg.DagsterInstance, name: str) -> None:
    found = cancel(project, name)
    assert found.exit_code
    assert f"got '{name}'" in str(found.exception)


def test_a_run_of_no_variant_is_refused_by_its_id(project: Path, instance: dg.DagsterInstance) -> None:
    run = instance.create_run_for_job(variant_chain, status=STATUS.STARTED, tags={VARIANT: NOBODY})
    assert "no variant's run has this id" in str(cancel(project, run.run_id).exception)


def test_another_projects_variant_of_this_name_on_the_instance_goes_on(
    project: Path, instance: dg.DagsterInstance
) -> None:
    theirs, ours = (run_of(instance, STATUS.QUEUED) for _ in range(2))
    for run, folder in ((theirs, project / "elsewhere"), (ours, project)):
        instance.add_run_tags(run.run_id, {PROJECT_VARIANT: f"{folder}:{KEY}"})
    done = cancel(project, KEY, "--json")
    assert [run["run_id"] for run in json.loads(done.stdout)["runs"]] == [ours.run_id]
    assert present(instance.get_run_by_id(theirs.run_id)).status == STATUS.QUEUED


def test_after_a_cancellation_nothing_is_to_be_mended(instance: dg.DagsterInstance) -> None:
    run = run_of(instance, STATUS.STARTED)
    instance.report_run_canceled(run)
    said = next_of_state(KEY, "failing", "", failure=failure_of(instance, run.run_id))
    assert said == f"`ft-dagster run {KEY}` goes on where it was cancelled"


def test_a_killed_run_that_would_be_tried_again_is_not(project: Path, instance: dg.DagsterInstance) -> None:
    """No daemon lives that would come to it; one that is started later passes it over."""
    come_to_each_failure(instance)
    run = run_of(instance, STATUS.STARTED)
    instance.report_run_failed(run, "its process was killed")
    began = time.monotonic()
    done = cancel(project, KEY, "--json")
    assert done.exit_code == 0, done.output
    assert time.monotonic() - began < 60, "it did not wait for what nobody would do"
    [said] = json.loads(done.stdout)["runs"]
    assert (said["run_status"], said["unfinished"]) == ("FAILURE", False)
    assert f"had been killed, and is not tried again: `ft-dagster run {KEY}`" in said["message"]
    assert present(instance.get_run_by_id(run.run_id)).tags[WILL_RETRY] == "false"


def test_a_run_whose_process_is_on_another_machine_says_so_where_it_does_not_end(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(instance, STATUS.STARTED)
    tell_launch(instance, run, Machine("node-7", "a boot"))
    at_once = partial(instance_module.cancel, patience=0)
    monkeypatch.setattr(instance_module, "cancel", at_once)
    done = cancel(project, KEY)
    assert done.exit_code == FAILED
    assert "has not yet: its process is on node-7. Call this again; if that machine is gone" in done.output


def test_the_id_of_an_earlier_try_names_the_newest(project: Path, instance: dg.DagsterInstance) -> None:
    first, second = run_of(instance, STATUS.FAILURE), run_of(instance, STATUS.SUCCESS)
    instance.add_run_tags(first.run_id, {RETRIED_BY: second.run_id})
    done = cancel(project, first.run_id)
    assert f"run {first.run_id[:8]} was tried again as run {second.run_id[:8]}" in done.stderr
    assert f"{KEY}: run {second.run_id[:8]} had ended before (success): nothing to cancel" in done.stdout
