"""What many verdicts add up to is refused by the command line, by Dagster's API and in the UI: generations
that erode, the best of five retrains, a child that is asked what its parent learned, a child of a parent that
was rolled back, and a promotion against the policy.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

from ft_dagster.lineage.release import history
from ft_dagster.settings import load_settings
from ft_dagster.stages.release_evaluation import judge_release
from tests.e2e import over_generations
from tests.e2e.browser import PROGRAM, BrowserTab, browser
from tests.e2e.instance import BIN, EndedRun, ended, free_port, launch, running, wait_for_ui
from tests.e2e.over_generations import Retrains, eroding, retrain_as, retrains
from tests.e2e.project import POLICY, command_environment, edit, write_yaml
from tests.finished import copied
from tests.present import present
from tests.security.pretend import KEY
from tests.security.served_story import CHILD, ROLLBACK, child_of, file_of, released, story
from tests.stages.families import declare, is_test, learned, new_rows, workspace_of

__all__ = ["story"]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this host"),
]
Make = Callable[[pytest.FixtureRequest, Path], "Refused"]


class Refused(NamedTuple):
    """What has to be refused: by this command with this exit code, and by a run of these assets (none: of the
    whole chain), whose check or step `where` says so. `page`: of the UI, where that is read, below its root;
    {} is the run.
    """

    project: Path
    key: str
    command: tuple[str, ...]
    code: int
    assets: tuple[str, ...]
    where: str
    said: str
    page: str
    by_a_run: str = ""  # what a run may say instead

    @property
    def released(self) -> list[tuple[str, int | None]]:
        """The release log: what was done, and what is in production since."""
        prefix = f"tenants/{self.key.replace('.', '/')}"
        return [
            (each.action, each.production)
            for each in history(load_settings(self.project).open_store(), prefix)
        ]


class Said(NamedTuple):
    """What `ft-dagster` came to: its exit code, and all that it said, on one line."""

    code: int
    words: str


def ft_dagster(project: Path, *words: str) -> Said:
    done = subprocess.run(
        [BIN / "ft-dagster", *words],
        env={**command_environment(project), "COLUMNS": "1000"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    return Said(done.returncode, " ".join((done.stdout + done.stderr).split()))


def judged_page(key: str) -> str:
    return f"/assets/release_evaluation?view=partitions&partition={key}"


@pytest.fixture(scope="module")
def eroded(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return eroding(tmp_path_factory.mktemp("eroding") / "project", tiny_model_folder)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Retrains:
    return retrains(tmp_path_factory.mktemp("retrains"), tiny_model_folder)


def third_generation(request: pytest.FixtureRequest, folder: Path) -> Refused:
    project = shutil.copytree(request.getfixturevalue("eroded"), folder / "project")
    said = "against version 1, the reference (release 3 after it), the task test_split_task"
    key = over_generations.KEY
    return Refused(project, key, ("run", key), 1, (), "regression", said, judged_page(key))


def best_of_five(request: pytest.FixtureRequest, folder: Path) -> Refused:
    """The four others were refused before it."""
    found: Retrains = request.getfixturevalue("five")
    project, key = shutil.copytree(found.project, folder / "project"), over_generations.KEY
    for seed in found.seeds[:-1]:
        retrain_as(project, seed)
        assert ft_dagster(project, "run", key).code == 1
    retrain_as(project, found.seeds[-1])
    said = "try 5, level 0.17%"
    return Refused(project, key, ("run", key), 1, (), "regression", said, judged_page(key))


def asked_what_its_parent_learned(request: pytest.FixtureRequest, folder: Path) -> Refused:
    project = copied(request.getfixturevalue("finished_project"), folder / "project")
    known = [each for each in learned(workspace_of(project, "places")) if is_test(each["instruction"])]
    trains = [each for each in islice(new_rows(), 60) if not is_test(each["instruction"])]
    declare(project, "child", [*trains, *known])
    said = f"all {len(known)} own test rows are in what acme.places v1 was trained on"
    return Refused(project, "acme.child", ("run", "acme.child"), 1, (), "training_plan", said, "/runs/{}")


def of_a_rolled_back_parent(request: pytest.FixtureRequest, folder: Path) -> Refused:
    """A promotion, which no run makes. A run that releases may be refused before it asks for the parent,
    where the story's child was judged otherwise than this host does.
    """
    project = shutil.copytree(request.getfixturevalue("story"), folder / "project")
    child_of(project)
    released(project, "child", CHILD)
    assert ft_dagster(project, *ROLLBACK).code == 0
    write_yaml(project / "policy.yaml", {**POLICY, "serving": "refuse"})
    said, key = "acme.places v2, which it was made on, was rolled back: worse", str(CHILD)
    promote = ("release", key, "--version", "1")
    another = "the declaration of today demands another"
    return Refused(project, key, promote, 2, ("release",), "release", said, "/fleet", another)


def against_the_policy(request: pytest.FixtureRequest, folder: Path) -> Refused:
    """A candidate that waited, while the policy's floor was raised."""
    project = shutil.copytree(request.getfixturevalue("story"), folder / "project")
    edit(file_of(project), lambda content: content.pop("release"))
    write_yaml(project / "policy.yaml", {**POLICY, "gates": {**POLICY["gates"], "general_margin": 0.01}})
    said, key = "not as the policy demands: at most 0.01", str(KEY)
    return Refused(
        project, key, ("release", key, "--version", "3"), 2, ("release",), "release", said, "/runs/{}"
    )


STORIES: tuple[Make, ...] = (
    third_generation,
    best_of_five,
    asked_what_its_parent_learned,
    of_a_rolled_back_parent,
    against_the_policy,
)


@pytest.fixture(scope="module", params=STORIES, ids=lambda make: make.__name__)
def refused(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Refused:
    make: Make = request.param
    return make(request, tmp_path_factory.mktemp("refused"))


class Launched(NamedTuple):
    """The run of what has to be refused, in a UI that is open."""

    root: str
    tab: BrowserTab
    done: EndedRun


@pytest.fixture(scope="module")
def launched(refused: Refused, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    from ft_dagster.automation.jobs import CHAIN

    port, names = free_port(), refused.assets or [asset.key.path[-1] for asset in CHAIN]
    with (
        running([BIN / "ft-dagster", "ui", "--port", str(port)], command_environment(refused.project)),
        browser(tmp_path_factory.mktemp("profile")) as tab,
    ):
        root = wait_for_ui(port)
        yield Launched(root, tab, ended(port, launch(port, refused.key, *names)))


def test_the_command_line_refuses_it(refused: Refused) -> None:
    before = refused.released
    done = ft_dagster(refused.project, *refused.command)
    assert (done.code, refused.said in done.words) == (refused.code, True), done.words
    assert "Traceback" not in done.words
    assert refused.released == before


def test_dagsters_api_refuses_it(refused: Refused, launched: Launched) -> None:
    done = launched.done
    assert done.status == "FAILURE"
    passed, said = done.checks.get(refused.where, (False, done.failures.get(refused.where, "")))
    assert not passed
    assert any(each in said for each in (refused.said, refused.by_a_run) if each)
    assert "release" not in {*done.checks} | {
        m["assetKey"]["path"][0] for m in done.run["assetMaterializations"]
    }


def test_the_ui_shows_why(refused: Refused, launched: Launched) -> None:
    tab, said = launched.tab, refused.said.replace("'", "\\'")
    tab.look(1280, dark=False)
    text = r"document.body.innerText.replace(/\u200b/g, '').replace(/\s+/g, ' ')"
    tab.open(launched.root + refused.page.format(launched.done.run_id), f"{text}.includes('{said}')")


@pytest.mark.parametrize("limit", [None, "auto"])
def test_the_third_generation_holds_against_the_one_before_and_not_against_the_first(
    eroded: Path, tmp_path: Path, limit: str | None
) -> None:
    """Also where each model is asked no more questions than decide."""
    project = shutil.copytree(eroded, tmp_path / "project")
    edit(project / over_generations.FILE, lambda content: content["evaluation"].update(limit=limit))
    done = ft_dagster(project, "run", over_generations.KEY)
    assert done.code == 1, done.words
    verdict = present(judge_release(workspace_of(project, "places")).judgement).verdict
    rules = {(rule.rule, rule.task): rule for rule in verdict.rules}
    assert rules["regression", "test_split_task"].passed
    fallen = rules["reference", "test_split_task"]
    assert (fallen.outcome, fallen.margin) == ("fail", over_generations.REFERENCE)
    assert fallen.sentence in done.words
    assert [rule for rule in verdict.rules if not rule.passed] == [fallen]


def test_none_of_five_holds_the_margin_and_the_best_would_be_released_as_a_first_try(
    five: Retrains, tmp_path: Path
) -> None:
    """The level allows that in one of forty counts: it is refused because it is the fifth."""
    assert min(five.falls) >= five.margin
    project = shutil.copytree(five.project, tmp_path / "project")
    retrain_as(project, five.seeds[-1])
    assert ft_dagster(project, "run", over_generations.KEY).code == 0
    prefix = over_generations.PREFIX
    assert [each.version for each in history(load_settings(project).open_store(), prefix)] == [1, 2]
