"""How far a run is, as the terminal shows it."""

import json
import logging
import os
import time
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.automation.processes.instance import current_step, progress_of, said_of_step
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey

KEY = VariantKey("acme", "support")


def test_a_program_that_ended_before_the_step_began_says_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    settings = load_settings(tmp_path)
    assert progress_of(settings, KEY, 0) == {}
    file = settings.work_folder / "runs" / str(KEY) / "fine_tuned_model-1" / "output" / "progress.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"step": 3, "total_steps": 9}), "utf-8")
    assert progress_of(settings, KEY, time.time() - 60) == {"step": 3, "total_steps": 9}
    os.utime(file, (0, 0))
    assert progress_of(settings, KEY, time.time() - 60) == {}


def test_what_a_step_said_last_is_shown_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)  # which a command line raises
    seen = []

    @dg.op
    def training_mixture(context: dg.OpExecutionContext) -> None:
        context.log.info("tokenized of train: 1,024 of 50,000 rows")
        seen.append(said_of_step(context.instance, context.run_id))
        context.log.info("[pipes] external process successfully opened dagster pipes.")
        assert said_of_step(context.instance, context.run_id) == ""
        seen.append(current_step(context.instance, context.run_id)[0])

    @dg.job
    def chain() -> None:
        training_mixture()

    with dg.DagsterInstance.ephemeral() as instance:
        run = chain.execute_in_process(instance=instance)
        assert seen == ["tokenized of train: 1,024 of 50,000 rows", "training_mixture"]
        assert said_of_step(instance, run.run_id) == ""
