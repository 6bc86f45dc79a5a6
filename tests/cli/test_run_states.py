"""What `ft-dagster run` says where no terminal shows a table: a log that is never silent for long."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

import dagster as dg
from rich.console import Console

from ft_dagster.automation.clusters.waiting import REASON, said
from ft_dagster.automation.processes.instance import Launched, dagster_yaml
from ft_dagster.automation.tags import TENANT, VARIANT
from ft_dagster.cli.run_states import LONGEST_SECONDS, MOST_SILENT, RunState, StateLines, looked_at
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from tests.instances import ORIGIN, new_instance
from tests.present import present

WORDS = "step 12 of 64, loss 1.93, ETA 1m 20s"


class Log:
    """Lines on a screen that is no terminal, by a clock that is set."""

    def __init__(self) -> None:
        self.seconds, self._file = 0.0, io.StringIO()
        self.lines = StateLines(Console(file=self._file, width=80), clock=lambda: self.seconds)

    def said(self, *states: RunState, seconds: float = 0.0) -> list[str]:
        """What is said more, so many seconds later, without the time of day."""
        before = len(self._file.getvalue())
        self.seconds += seconds
        self.lines(states)
        return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in self._file.getvalue()[before:].splitlines()]


def training(words: str = WORDS, run: str = "aaaa", state: str = "started") -> RunState:
    return RunState("acme.support", run, state, "fine_tuned_model", "", words)


def queued(variant: str, why: str = "waits for acme.support to end (tenant_runs: 1)") -> RunState:
    return RunState(variant, variant, "queued", "", why, why)


def test_of_a_run_in_progress_a_line_comes_at_least_every_30_seconds() -> None:
    log, heard = Log(), list[float]()
    for _ in range(30):
        if log.said(training(), seconds=LONGEST_SECONDS):
            heard.append(log.seconds)
    assert heard[0] == LONGEST_SECONDS
    gaps = {later - earlier for earlier, later in pairwise(heard)}
    assert gaps == {MOST_SILENT - LONGEST_SECONDS}  # by a look that may come LONGEST_SECONDS late


def test_a_line_has_step_loss_and_eta_within_80_columns() -> None:
    (line,) = Log().said(training())
    assert line == f"acme.support fine_tuned_model: {WORDS}"
    assert len(f"23:59:59 {line}") <= 80


def test_another_asset_is_said_at_once_and_the_same_is_not_said_twice() -> None:
    log = Log()
    assert log.said(training())
    assert log.said(training("step 13 of 64"), seconds=1) == []
    (line,) = log.said(training()._replace(asset="evaluation", words="40 of 400, arc_easy"), seconds=1)
    assert line == "acme.support evaluation: 40 of 400, arc_easy"


def test_of_many_that_are_queued_one_line_says_what_they_wait_for() -> None:
    log = Log()
    first, others = queued("acme.a"), [queued(f"acme.b{number}") for number in range(98)]
    assert len(log.said(first, *others)) == 99  # each once, when it is submitted
    assert log.said(first, *others, seconds=25) == [
        "acme.a queued: waits for acme.support to end (tenant_runs: 1) (and 98 more are queued)"
    ]


def test_a_run_that_has_ended_is_not_said_again() -> None:
    log = Log()
    assert log.said(training(state="success", words="")) == ["acme.support success fine_tuned_model"]
    assert log.said(training(state="success", words=""), seconds=1000) == []


def test_what_a_program_wrote_forges_no_line() -> None:
    (line,) = Log().said(training("a\nacme.other success"))
    assert line.endswith("a\\nacme.other success")


def a_run(
    instance: dg.DagsterInstance, variant: str, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED
) -> Launched:
    key = VariantKey.parse(variant)
    tags = {VARIANT: variant, TENANT: key.tenant}
    run = instance.add_run(dg.DagsterRun("job", status=status, tags=tags, remote_job_origin=ORIGIN))
    return Launched(key, run.run_id)


def test_a_queued_run_says_which_run_it_waits_for_by_the_queue_of_its_instance(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    queue = dagster_yaml(load_settings(tmp_path))["run_coordinator"]
    tenant = next(each for each in queue["config"]["tag_concurrency_limits"] if each["key"] == TENANT)
    tenant["limit"] = 2  # as a platform may write it into the instance's file: 4 by the settings
    with new_instance({"run_coordinator": queue}) as instance:
        waiting = a_run(instance, "acme.support", dg.DagsterRunStatus.QUEUED)

        def reason() -> str:
            return looked_at(instance, load_settings(tmp_path), [waiting])[waiting.run_id].progress

        assert reason() == "waits for the daemon to start it"
        for number in range(7):
            a_run(instance, f"tenant{number}.support")
        assert reason() == "waits for the daemon to start it"
        a_run(instance, "acme.towns")
        assert reason() == "waits for one of 8 runs to end"
        a_run(instance, "acme.places")
        said = "waits for acme.places or acme.towns to end (the queue admits 2 of this tenant)"
        assert reason() == said
        same = a_run(instance, "acme.support")
        assert reason() == f"waits for run {same.run_id[:8]} of this variant to end"


def test_a_run_whose_job_waits_in_a_cluster_says_why_until_it_begins(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    line = "Ray's job dagster-run-1 waits: it starts once a node with 1 GPU is free"
    with new_instance({}) as instance:
        starting = a_run(instance, "acme.support", dg.DagsterRunStatus.STARTING)

        def told() -> RunState:
            return looked_at(instance, load_settings(tmp_path), [starting])[starting.run_id]

        assert (told().state, told().words) == ("starting", "")
        run = present(instance.get_run_by_id(starting.run_id))
        said(run, instance, line, {REASON: "no GPU is free"})
        assert (told().progress, told().words) == (line, line)
        instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", run.job_name), run.run_id)
        assert line not in told().words


def test_the_stage_whose_program_runs_is_named_where_a_step_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    settings = load_settings(tmp_path)
    file = settings.work_folder / "runs" / "acme.support" / "fine_tuned_model-1" / "output" / "progress.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"step": 3, "total_steps": 9}', "utf-8")
    with new_instance({}) as instance:
        run = a_run(instance, "acme.support")
        (state,) = looked_at(instance, settings, [run]).values()
    assert (state.asset, state.words) == ("fine_tuned_model", "step 3 of 9")
