"""A variant that is trained until something passes: each retrain since its last release is a try."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import CHAIN as ASSETS
from ft_dagster.build import default_resources as resources
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import Launcher
from ft_dagster.lineage.release import history
from ft_dagster.lineage.tries import count, tries
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.resources import LAUNCHER, fixed
from ft_dagster.resources.gpus import Gpus
from ft_dagster.resources.launchers import Programs
from ft_dagster.spec import load_variant
from ft_dagster.stages import base_evaluation, declaration, evaluation
from ft_dagster.stages.chain import CHAIN, ChainOutcome, run_chain, up_to
from ft_dagster.stages.release import release
from ft_dagster.store import Artifact
from ft_dagster.versions.check import check_variant
from ft_dagster.versions.now import up_to_date
from ft_dagster.workspace.next_look import look_ahead
from ft_dagster.workspace.workspace import Trial, Workspace
from tests.e2e.project import edit, rows, write_lines
from tests.long import mostly_long
from tests.present import present
from tests.security.attacked import FILE, declare, make, project, trained
from tests.security.pretend import KEY, PREFIX, Pretend, desk

__all__ = ["project", "trained"]
pytestmark = pytest.mark.slow
LIMIT = 200
NAMES = ("a", "bb", "ccc", "dddd", "ffffff", "ggggggg")  # of retrains, whose seeds are as long


def right(answers: int) -> float:
    """The share by which weights answer so many of the own questions rightly, where the base has none."""
    drawn = random.Random("test_split_task0").sample(range(10 * LIMIT), LIMIT)
    places = sorted(
        int(hashlib.sha256(f"test_split_task{n}".encode()).hexdigest()[:16], 16) / 16**16 for n in drawn
    )
    return (places[answers - 1] + places[answers]) / 2


def retrain(project: Path, name: str, answers: int, **known: int) -> ChainOutcome:
    """Train weights `name` by another seed and judge them. `known`: of weights that are asked again."""
    declare(project, training={"seed": len(name)})
    shares = {each: right(number) for each, number in {**known, name: answers}.items()}
    return run_chain(desk(project, Pretend(name, {"base": 0.0, "first": 1.0, **shares})), CHAIN)


def judged(project: Path) -> Artifact:
    return desk(project, Pretend()).upstream("evaluation")


def verdict(project: Path) -> Verdict:
    return Verdict.from_json(judged(project).figures["verdict"])


@pytest.mark.long
def test_the_best_of_five_retrains_is_not_released(project: Path) -> None:
    """8 right answers more than the base: shown at the second try (7), not at the sixth (10)."""
    for name in NAMES[:4]:
        assert retrain(project, name, 3).error is not None
    outcome = retrain(project, NAMES[4], 8)
    assert verdict(project).tries == 6  # the first weights of the project were evaluated, and not released
    assert not verdict(project).passed
    assert "gate" in str(outcome.error)
    with pytest.raises(UserError):
        release(desk(project, Pretend()))
    assert history(desk(project, Pretend()).store, PREFIX) == []


@dataclass(frozen=True)
class Pretending(Programs):
    """Starts programs that are pretended, for Dagster's own runs."""

    pretend: Pretend

    def open(self) -> Launcher[Any]:
        return self.pretend


@pytest.mark.long
def test_the_best_of_five_retrains_is_not_released_through_dagster_and_the_command_line_says_so(
    project: Path,
) -> None:
    for name in NAMES[:4]:
        retrain(project, name, 3)
    declare(project, training={"seed": len(NAMES[4])})
    programs = Pretending(Gpus(str(project)), pretended(NAMES[4], 8))
    make(project, *up_to("fine_tuned_model"), pretend=programs.pretend)
    names = ("base_evaluation", "evaluation", "model_export", "release_evaluation", "release")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [str(KEY)])
        result = dg.materialize(
            [asset for asset in ASSETS if asset.key.path[-1] in names],
            partition_key=str(KEY),
            instance=instance,
            resources={**resources(str(project)), LAUNCHER: fixed(programs)},
            raise_on_error=False,
        )
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["gate"].passed
    assert not result.success
    assert history(desk(project, Pretend()).store, PREFIX) == []
    assert (verdict(project).tries, verdict(project).passed) == (6, False)
    said = CliRunner().invoke(app, ["--project", str(project), "status", str(KEY), "--json"])
    (row,) = json.loads(said.stdout)["variants"]
    assert (row["gate"], row["version"], row["look"]["try"]) == (False, None, 7)
    shown = CliRunner().invoke(app, ["--project", str(project), "check", str(KEY)])
    assert "the next evaluation is try 7 since the last release" in shown.stdout


def test_the_same_model_passes_where_nothing_was_tried_before_it(project: Path) -> None:
    assert retrain(project, NAMES[4], 8).error is None
    assert verdict(project).tries == 2
    assert release(desk(project, Pretend())).entry.version == 1


def test_a_released_version_keeps_its_try_and_needs_no_run_and_the_next_retrain_is_the_first(
    project: Path,
) -> None:
    assert retrain(project, NAMES[0], 100).error is None
    before = judged(project)
    workspace = desk(project, Pretend())
    release(workspace)
    assert (before.spec["tries"], count(workspace.store, PREFIX).next) == (2, 1)
    assert judged(make(project, *CHAIN).project).place == before.place
    current = up_to_date(workspace.settings, KEY)
    assert current is not None
    assert current.digests["evaluation"] == before.digest
    retrain(project, NAMES[1], 100)
    assert verdict(project).tries == 1


@pytest.mark.long
def test_a_loser_that_is_asked_the_same_or_almost_after_a_release_is_no_first_try(project: Path) -> None:
    """8 right answers more than the base: shown at the first try (6), and not at the sixth (10)."""
    shares = {"base": 0.0, "first": 1.0, "lost": right(8), "won": right(100)}
    for name, seed in (("a", 1), ("bb", 2), ("lost", 4), ("won", 3)):
        declare(project, training={"seed": seed})
        run_chain(desk(project, Pretend(name, {**shares, "a": right(3), "bb": right(3)})), CHAIN)
    release(desk(project, Pretend()))
    for number, probed in ((6, 16), (7, 17)):  # the same questions, and another version in production
        declare(project, training={"seed": 4}, evaluation={"probed_rows": probed})
        outcome = run_chain(desk(project, Pretend("lost", shares)), CHAIN)
        assert (verdict(project).tries, verdict(project).passed) == (number, False)  # 1: the project's own
        assert "gate" in str(outcome.error)


def test_a_declaration_that_was_deleted_and_written_again_begins_no_new_count(project: Path) -> None:
    retrain(project, NAMES[0], 3)
    text = (project / FILE).read_text("utf-8")
    (project / FILE).unlink()
    (project / FILE).write_text(text, "utf-8")
    retrain(project, NAMES[1], 3)
    assert verdict(project).tries == 3


@pytest.mark.parametrize(
    "changes", mostly_long([{"limit": 199}, {"seed": 1}, {"max_new_tokens": 20}], every=2)
)
def test_other_questions_begin_no_new_count(project: Path, changes: dict[str, Any]) -> None:
    retrain(project, NAMES[0], 3)
    declare(project, evaluation=changes)
    make(project, declaration.STAGE, base_evaluation.STAGE, evaluation.STAGE, pretend=pretended(NAMES[0], 3))
    assert verdict(project).tries == 3


def pretended(name: str, answers: int) -> Pretend:
    return Pretend(name, {"base": 0.0, "first": 1.0, name: right(answers)})


def test_other_gates_judge_the_stored_answers_at_the_level_of_their_try(project: Path) -> None:
    retrain(project, NAMES[0], 8)
    assert (verdict(project).tries, verdict(project).passed) == (2, True)
    release(desk(project, Pretend()))
    declare(project, gates={"alpha": 0.04})
    pretend = Pretend()
    make(project, declaration.STAGE, evaluation.STAGE, pretend=pretend)
    assert "evaluation" not in pretend.ran
    assert (verdict(project).tries, verdict(project).passed) == (2, True)
    declare(project, gates={"alpha": 0.02})
    make(project, declaration.STAGE, evaluation.STAGE, pretend=pretend)
    assert "evaluation" not in pretend.ran
    assert (verdict(project).tries, verdict(project).passed) == (2, False)


def test_the_same_answers_by_another_metric_or_weights_are_another_try(project: Path) -> None:
    """8 right answers more than the base: shown at the second try (7), not at the fourth (9)."""
    retrain(project, NAMES[0], 8)
    pretend, found = Pretend(), []
    said = {"metrics": {"test_split_task": "acc"}}  # its main one
    for gates in ({"weights": "group"}, {"metrics": {"test_split_task": "exact_match"}}, said, {}):
        declare(project, gates={"weights": "size", "metrics": {}, **gates})
        make(project, declaration.STAGE, evaluation.STAGE, pretend=pretend)
        found.append((verdict(project).tries, verdict(project).passed))
    assert [tries for tries, _ in found] == [3, 4, 2, 2]
    assert (found[1][1], found[2][1]) == (False, True)
    assert "evaluation" not in pretend.ran
    assert retrain(project, NAMES[1], 3).error is not None
    assert verdict(project).tries == 5


@pytest.mark.parametrize("schema", [1, 2])
def test_another_metric_is_another_try_of_weights_whose_records_do_not_say_theirs(
    project: Path, schema: int
) -> None:
    folder = Path(desk(project, Pretend()).store.path(f"{PREFIX}/tries"))
    for file in folder.rglob("*.json"):
        record = json.loads(file.read_text())
        kept = ("questions", "at", *(("weights", "ordinal", "after") if schema == 2 else ()))
        file.write_text(json.dumps({name: record[name] for name in kept if name in record}))
    if schema == 1:
        shutil.rmtree(folder / "lineage")
    found = []
    for metric in ("exact_match", "acc", "exact_match"):
        declare(project, gates={"metrics": {"test_split_task": metric}})
        make(project, declaration.STAGE, evaluation.STAGE, pretend=Pretend())
        found.append(verdict(project).tries)
    assert found == [2, 1, 2]


@pytest.mark.long
def test_other_prompts_to_refuse_are_another_try_of_the_same_weights(project: Path) -> None:
    for name in "ab":
        kinds = ("must_refuse", "must_answer")
        prompts = [
            {"id": f"{kind}-{n}", "kind": kind, "category": "c", "prompt": f"{kind} {n} of file {name}"}
            for kind in kinds
            for n in range(100)
        ]
        write_lines(project / f"data/{name}.jsonl", prompts)
    retrain(project, NAMES[0], 100)
    found = []
    for name in "aba":
        refusals = {"margin": 0.1, "over_margin": 0.1, "prompts": f"data/{name}.jsonl"}
        declare(project, gates={"refusals": refusals})
        outcome = run_chain(desk(project, pretended(NAMES[0], 100)), CHAIN)
        assert outcome.error is None, outcome.error
        found.append(verdict(project).tries)
    assert found == [2, 3, 2]


def test_a_retrain_that_could_decide_nothing_is_refused_before_it_is_trained(project: Path) -> None:
    """A tail of 35% takes 9 test rows at the first try, and more than there are at some later one."""
    workspace = desk(project, Pretend())
    rows = workspace.upstream("task_dataset").figures["rows"]["test"]
    spec = load_variant(project, KEY).spec
    look = look_ahead(workspace, spec)
    assert (look.number, look.rules[0].there) == (2, rows)
    assert look.left is not None
    for number in range(look.left):
        retrain(project, "x" * (number + 10), 3)
    trained_so_far = len(workspace.store.names(f"{PREFIX}/fine_tuned_model"))
    outcome = retrain(project, "last", 3)
    assert "(try " in str(outcome.error)
    assert "since the last release" in str(outcome.error)
    assert len(workspace.store.names(f"{PREFIX}/fine_tuned_model")) == trained_so_far


# A reserve


@pytest.mark.long
def test_a_release_moves_on_to_the_next_set_and_weights_keep_the_one_that_judged_them(project: Path) -> None:
    """Without a reference, which the 7 rows of a set cannot decide at the third release. All rows were asked
    before the reserve was declared, so that no set is fresh.
    """
    declare(project, evaluation={"reserve": 2}, gates={"reference": None})
    found = []
    for name in NAMES[:3]:
        outcome = retrain(project, name, 100, **dict.fromkeys(NAMES[:3], 100))
        assert outcome.error is None, outcome.error
        made = judged(project)
        found.append((made.spec["tries"], made.spec["task.part"]))
        assert made.figures["reserve"] == {"sets": 2, "set": found[-1][1], "fresh": False, "left": 0}
        (said,) = [
            check for check in evaluation.checks(desk(project, Pretend()), made) if check.name == "gate"
        ]
        assert "rows of which were asked before" in said.sentence
        assert said.figures["reserve_fresh"] is False
        workspace = desk(project, Pretend())
        before = present(workspace.head("base_evaluation"))
        assert before.spec["task.part"] == made.spec["task.part"]
        release(workspace)
        assert present(up_to_date(workspace.settings, KEY)).digests["evaluation"] == made.digest
    assert found == [(2, 1), (1, 2), (1, 1)]
    look = look_ahead(desk(project, Pretend()), load_variant(project, KEY).spec)
    assert not present(look.reserve).fresh


def test_all_tries_of_a_count_are_put_to_one_set(project: Path) -> None:
    declare(project, evaluation={"reserve": 2})
    for name in NAMES[:2]:
        retrain(project, name, 3)
        assert judged(project).spec["task.part"] == 1


@pytest.mark.parametrize("grouped", mostly_long([True, False]))
def test_a_set_with_rows_that_were_asked_in_another_dealing_is_not_fresh(
    project: Path, *, grouped: bool
) -> None:
    """A group that is declared later deals the rows otherwise; the sets keep their numbers."""
    shutil.rmtree(desk(project, Pretend()).store.path("tenants"))
    declare(project, evaluation={"reserve": 2}, gates={"reference": None})
    edit(project / FILE, lambda content: content["data"]["splits"].update(test=0.4))
    more = [{"instruction": f"Where is number {n}?", "input": "", "output": f"{n}."} for n in range(9)]
    for name in NAMES[:2]:
        outcome = retrain(project, name, 100, **dict.fromkeys(NAMES[:2], 100))
        assert outcome.error is None, outcome.error
        made = judged(project)
        if name == NAMES[0]:
            assert made.figures["reserve"] == {"sets": 2, "set": 1, "fresh": True, "left": 1}
            release(desk(project, Pretend()))
            told = [{**row, "group": f"document {n // 2}"} for n, row in enumerate(rows())]
            write_lines(project / "data/rows.jsonl", told if grouped else [*rows(), *more])
    assert made.figures["reserve"] == {"sets": 2, "set": 2, "fresh": not grouped, "left": 0}


def test_a_reserve_whose_sets_decide_nothing_is_refused_by_check_and_by_the_plan(project: Path) -> None:
    declare(project, evaluation={"reserve": 50})
    with pytest.raises(UserError, match=r"each of 50 sets gets about 0 test rows") as refused:
        check_variant(desk(project, Pretend()).settings, KEY)
    assert refused.value.field == "evaluation.reserve"
    outcome = retrain(project, NAMES[0], 100)
    assert "so would fewer sets than 50" in str(outcome.error)


# Experiments


def test_runs_of_an_experiment_are_asked_what_judges_nothing_and_are_no_tries(project: Path) -> None:
    before = count(desk(project, Pretend()).store, PREFIX).next
    pretend = Pretend("tried", {"base": 0.0, "tried": 0.5})
    refusals = {"margin": 0.1, "over_margin": 0.1}
    edit(project / FILE, lambda content: content["gates"].update(refusals=refusals))
    settings, declared = desk(project, pretend).settings, load_variant(project, KEY)
    trial = Trial("sweep-1/1", declared, {"training.seed": 77})
    workspace = Workspace(settings, KEY, trial=trial, launcher=pretend)
    outcome = run_chain(workspace, [stage for stage in CHAIN if stage.name != "model_export"])
    assert "evaluation" in outcome.made, outcome.error
    tried, judging = workspace.upstream("evaluation"), judged(project)
    dataset = workspace.upstream("task_dataset")
    assert tried.inputs["task.test"] == dataset.files["payload/validation.parquet"].sha256
    assert judging.inputs["task.test"] == dataset.files["payload/test.parquet"].sha256
    assert "general.general_holdout" not in tried.inputs
    assert not {"refusal_answers", "base_refusal_answers"} & {*tried.inputs}
    assert "refusals" not in {rule.rule for rule in Verdict.from_json(tried.figures["verdict"]).rules}
    assert "tries" not in tried.spec
    assert count(workspace.store, PREFIX).next == before
    assert tries(workspace.store, PREFIX, tried.inputs["fine_tuned_model"]) == []


def test_an_experiment_without_rows_to_choose_by_is_refused(project: Path) -> None:
    from ft_dagster.automation.experiments.experiments import ExperimentRun, open_experiment

    edit(project / FILE, lambda content: content["data"]["splits"].update(validation=0))
    declared, settings = load_variant(project, KEY), desk(project, Pretend()).settings
    runs = [ExperimentRun(1, "one", {})]
    with (
        pytest.raises(UserError, match="an experiment chooses by the validation split"),
        open_experiment(settings, declared, "sweep", {}, runs),
    ):
        pass


def test_a_copy_of_the_variant_is_counted_by_itself(project: Path) -> None:
    """As docs/security.md says: nothing finds out."""
    retrain(project, NAMES[0], 3)
    shutil.copyfile(project / FILE, project / "tenants/acme/copy.yaml")
    assert count(desk(project, Pretend()).store, "tenants/acme/copy").next == 1
