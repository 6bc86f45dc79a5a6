"""How far a run is, as the terminal shows it."""

import json
import os
import time
from pathlib import Path
from typing import cast

import dagster as dg

from ft_dagster.assets.failures import failures, run_again_where_unreported
from ft_dagster.automation.processes.instance import current_step, said_of_step
from ft_dagster.automation.running import newest_checkpoint, program_now
from ft_dagster.report.sentences.progress import in_words
from ft_dagster.settings import Retries, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.training import checkpoints
from ft_dagster.training.contract import CHECKPOINTS

KEY = VariantKey("acme", "support")


def test_a_program_that_ended_before_the_step_began_says_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    settings = load_settings(tmp_path)
    assert program_now(settings, KEY).progress == {}
    file = settings.work_folder / "runs" / str(KEY) / "fine_tuned_model-1" / "output" / "progress.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"step": 3, "total_steps": 9}), "utf-8")
    stage, progress = program_now(settings, KEY, time.time() - 60)
    assert (stage, in_words(progress)) == ("fine_tuned_model", "step 3 of 9")
    os.utime(file, (0, 0))
    assert program_now(settings, KEY, time.time() - 60).progress == {}


def test_a_checkpoint_is_that_of_the_training_that_was_asked_for_last(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    settings, began = load_settings(tmp_path), time.time() - 60
    runs = settings.work_folder / "runs" / str(KEY)
    for key, step in (("older", 7), ("newer", 3)):
        folder = runs / f"fine_tuned_model-{key}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        if key == "newer":
            assert newest_checkpoint(settings, KEY, began) is None  # it waits for a device
        kept = checkpoints.folder_of(folder / "output" / CHECKPOINTS, step)
        kept.mkdir(parents=True)
        checkpoints.commit(kept, step, "a recipe", None)
        os.utime(folder / "run.json", (began + step * (key == "newer"),) * 2)
    assert newest_checkpoint(settings, KEY, began) == 3
    assert newest_checkpoint(settings, KEY, time.time()) is None


def test_the_time_left_goes_on_between_two_batches_and_so_does_the_wait_for_the_first(tmp_path: Path) -> None:
    def said(age: float, **progress: object) -> str:
        (tmp_path / "tenants").mkdir(exist_ok=True)
        settings = load_settings(tmp_path)
        file = settings.work_folder / "runs" / str(KEY) / "evaluation-1" / "output" / "progress.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(progress), "utf-8")
        os.utime(file, (time.time() - age, time.time() - age))
        return in_words(program_now(settings, KEY).progress)

    assert (
        said(40, done=20, total=60, task="sea_quiz", eta_seconds=100.4)
        == "20 of 60 questions, sea_quiz, ETA 1m 00s"
    )
    assert said(140.4, done=20, total=60, task="sea_quiz", eta_seconds=100) == (
        "20 of 60 questions, sea_quiz, unchanged for 2m 20s"
    )
    assert said(20.4, done=0, total=60, task="sea_quiz") == "0 of 60 questions, sea_quiz, unchanged for 20s"
    assert said(20.4, task="loads the model") == "loads the model, unchanged for 20s"


def test_why_a_step_is_tried_again_is_shown_until_it_says_more() -> None:
    seen, once = [], Retries(attempts=1, wait_seconds=0)

    @dg.op
    def declaration(context: dg.OpExecutionContext) -> None:
        seen.append(said_of_step(context.instance, context.run_id))
        if context.retry_number == 0:
            with failures(cast(dg.AssetExecutionContext, context), lambda: once):
                raise ConnectionRefusedError("Connection refused: s3.example:443")

    @dg.job(hooks={run_again_where_unreported})  # as each of ours
    def chain() -> None:
        declaration()

    with dg.DagsterInstance.ephemeral() as instance:
        run = chain.execute_in_process(instance=instance)
        assert said_of_step(instance, run.run_id) == ""
    assert seen == [
        "",
        "store: the storage could not be reached: Connection refused: s3.example:443. "
        "Tried again in 0 s (1 of 1)",
    ]


def test_what_a_step_said_last_is_shown_while_it_runs() -> None:
    seen = []

    @dg.op
    def training_mixture(context: dg.OpExecutionContext) -> None:
        context.log.info("1,024 of 50,000 rows of train tokenized")
        seen.append(said_of_step(context.instance, context.run_id))
        context.log.info("[pipes] external process successfully opened dagster pipes.")
        assert said_of_step(context.instance, context.run_id) == ""
        seen.append(current_step(context.instance, context.run_id)[0])

    @dg.job
    def chain() -> None:
        training_mixture()

    with dg.DagsterInstance.ephemeral() as instance:
        run = chain.execute_in_process(instance=instance)
        assert seen == ["1,024 of 50,000 rows of train tokenized", "training_mixture"]
        assert said_of_step(instance, run.run_id) == ""
