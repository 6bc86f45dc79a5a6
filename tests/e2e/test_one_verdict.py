"""One sentence, one verdict: each outcome is said in the same words wherever a person reads of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.assets.fleet import fleet_metadata
from ft_dagster.assets.partitions import GRAPH
from ft_dagster.automation.notify import why_failed
from ft_dagster.automation.picture import picture
from ft_dagster.automation.processes.instance import failure_of
from ft_dagster.cli import app
from ft_dagster.gate.verdict_words import WORDS, verdict_sentence, verdict_word
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec import Declarations
from ft_dagster.store import read_head
from tests.e2e.project import UP_TO_PLAN, edit, write_project
from tests.e2e.workshop import Workshop
from tests.present import present
from tests.taught import teach

pytestmark = pytest.mark.long
KEY, PREFIX = "acme.places", "tenants/acme/places"
KEEPS = {
    "task_margin": 1.0, "general_margin": 1.0, "degeneration_margin": 1.0, "regression_margin": None,
    "loss_tail": 1.0,
}  # fmt: skip
EASY, STRICT = 0.1, 0.0002  # levels: at the second a fall of some size is neither shown nor ruled out


class Judged(NamedTuple):
    """A run whose gate came to a word of `WORDS`; its shop stands as the run left it."""

    word: str
    sentence: str
    shop: Workshop
    run: dg.ExecuteInProcessResult

    def shown(self, asset: str) -> dict[str, Any]:
        (event,) = self.run.asset_materializations_for_node(asset)
        return {name: value.value for name, value in event.metadata.items()}

    def said(self, *words: str) -> str:
        """What a command says, on one line."""
        done = CliRunner().invoke(app, ["--project", str(self.shop.folder), *words])
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    def told(self, *words: str) -> Any:
        """The same with --json."""
        return json.loads(self.said(*words, "--json"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A variant that forgets what its base was taught of the town; judged and not released."""
    folder = tmp_path_factory.mktemp("verdicts")
    project = write_project(folder / "project", teach(tiny_model_folder, folder / "taught"))

    def alone(content: dict[str, Any]) -> None:
        content["data"]["general"].update(share=0.0)
        content["evaluation"].update(limit=16)
        content["method"].update(alpha=8, dropout=0.05)

    edit(project / f"{PREFIX}.yaml", alone)
    edit(project / "policy.yaml", lambda content: content["gates"].update(least_alpha=STRICT))
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(project, instance)
        made = (*UP_TO_PLAN, "fine_tuned_model", "base_evaluation", "evaluation")
        _declare(shop, 1.0, EASY, "fail")
        assert shop.materialize(KEY, *made).success
        yield shop


@pytest.fixture(scope="module", params=WORDS)
def judged(
    shop: Workshop, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Judged]:
    """The same weights on the same questions, by other margins, each in a project of its own."""
    word, rise = request.param, _loss_rule(shop)
    low, high = rise.interval
    assert 0 < low < rise.difference < high < 1
    margin, alpha = {"passed": (1.0, EASY), "failed": (low, EASY)}.get(word, (high, STRICT))
    folder = shutil.copytree(shop.folder, tmp_path_factory.mktemp("judged") / "project")
    with dg.DagsterInstance.ephemeral() as instance:
        own = Workshop(folder, instance)
        _declare(own, margin, alpha, "measured" if word == "passed with warnings" else "fail")
        run = own.materialize(KEY, raises=False)
        verdict = _verdict(own)
        assert verdict_word(verdict) == word
        yield Judged(word, verdict_sentence(verdict), own, run)


def _declare(shop: Workshop, margin: float, alpha: float, undecided: str) -> None:
    gates = {**KEEPS, "general_loss_margin": margin, "alpha": alpha, "undecided": undecided}
    edit(shop.folder / f"{PREFIX}.yaml", lambda content: content.update(gates=gates))


def _verdict(shop: Workshop) -> Verdict:
    return Verdict.from_json(present(read_head(shop.store, PREFIX, "evaluation")).figures["verdict"])


def _loss_rule(shop: Workshop) -> Rule:
    (rule,) = [rule for rule in _verdict(shop).rules if rule.rule == "general_loss"]
    return rule


def test_dagster_says_it_on_the_check_and_on_the_pages(judged: Judged) -> None:
    (gate,) = [c for c in judged.run.get_asset_check_evaluations() if c.check_name == "gate"]
    assert present(gate.description).startswith(judged.sentence)
    assert gate.passed == judged.word.startswith("passed")
    pages = ["evaluation", "release"] if gate.passed else ["evaluation"]
    for asset in pages:
        shown = judged.shown(asset)
        assert judged.sentence in shown["summary"], asset
        assert shown["outcome"] == judged.word, asset


def test_the_terminal_says_it(judged: Judged) -> None:
    for command in ("compare", "status", "trace"):
        assert judged.sentence in judged.said(command, KEY), command
    for command in ("compare", "status"):
        assert judged.told(command, KEY)["variants"][0]["verdict"] == judged.sentence, command
    assert judged.told("trace", KEY)["verdict"] == judged.sentence


def test_the_reports_say_it(judged: Judged, tmp_path: Path) -> None:
    for words in ([KEY], ["--fleet"]):
        page = tmp_path / "page.html"
        judged.said("report", *words, "--to", str(page))
        assert judged.sentence in page.read_text("utf-8").replace("\u200b", ""), words


def test_what_passed_is_served_with_it_and_what_did_not_is_told_with_it(judged: Judged) -> None:
    settings, run = judged.shop.settings, judged.run.run_id
    if judged.word.startswith("passed"):
        assert judged.sentence in judged.said("catalogue")
        weights = present(read_head(judged.shop.store, PREFIX, "fine_tuned_model")).digest
        assert judged.sentence in judged.said("audit", "model", weights)
        return
    kind, told = why_failed(judged.shop.instance, run, GRAPH)
    assert kind == {"failed": "gate_failed", "undecided": "undecided"}[judged.word]
    assert told.startswith(judged.sentence)
    assert judged.sentence in failure_of(judged.shop.instance, run)
    declarations = Declarations(settings.project)
    board = fleet_metadata(picture(settings, declarations, list(declarations)))
    (row,) = [row.data for row in board["variants"].records if "places" in str(row.data["variant"])][:1]
    assert str(row["cause"]).replace("\u200b", "") == judged.sentence
    assert str(row["state"]).startswith("failing ")
