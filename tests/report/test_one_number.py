"""One fact, one number: what several pages say of the same thing is the same on all of them."""

from __future__ import annotations

import shutil
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.evaluation import describe_base, describe_evaluation
from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import read_samples
from ft_dagster.report.figures import score
from ft_dagster.report.sentences.summaries import mixture_summary, training_summary
from ft_dagster.report.tables.mixture import general_share, source_bars, source_shares
from ft_dagster.report.training import estimated_rows, figure_rows, plotted
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import GatesSpec
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.workspace.workspace import Workspace
from tests.kept_project import OLD_PROJECT
from tests.stored_figures import stored_training


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("kept") / "project"
    return Workspace(load_settings(shutil.copytree(OLD_PROJECT, folder)), VariantKey("acme", "places"))


def rows_of(entry: Any) -> list[list[str]]:
    assert isinstance(entry, dg.TableMetadataValue)
    return [[str(cell).replace("\u200b", "") for cell in record.data.values()] for record in entry.records]


def test_the_general_loss_of_a_model_is_the_verdicts_on_every_page(workspace: Workspace) -> None:
    """And so is every score that a rule judges: the mean of the questions, each counting alike."""
    base, judged = (workspace.upstream(stage) for stage in ("base_evaluation", "evaluation"))
    asked = rows_of(describe_base(workspace, base).entries["scores"])
    both = rows_of(describe_evaluation(workspace, judged).entries["every_score"])
    before, after = (read_samples(workspace.payload(each)) for each in (base, judged))
    rules = judge(before, after, GatesSpec(), objective="instruction").rules
    assert "general_loss" in {rule.metric for rule in rules}
    for rule in rules:
        sides = [score(rule.metric, value) for value in (rule.base, rule.tuned)]
        named = [rule.task, rule.metric if rule.higher_is_better else f"{rule.metric}, lower is better"]
        assert [*named, *sides] in both
        assert [*named, sides[0]] in [row[:3] for row in asked]


def test_the_memory_of_a_training_is_one_number_beside_what_was_estimated() -> None:
    predicted = {"memory_bytes": 664_000_000, "hours": 0.5, "training_hours": 0.4}
    figures = TrainingFigures.from_json(
        stored_training(peak_memory_bytes=2_048_000_000, imported_bytes=562_000_000, predicted=predicted)
    )
    shown = {row[0]: row[1] for row in figure_rows(figures)}
    (estimated,) = (row for row in estimated_rows(figures) if row[0] == "memory at its highest")
    assert estimated == ["memory at its highest", "664.0 MB", "1.5 GB"]
    assert shown["memory at its highest"] == "1.5 GB"
    assert "1.5 GB at its highest" in training_summary(figures).what
    assert plotted(figures)["peak_memory_gb"] == 1.486
    assert shown["memory of the process, with its imports"] == "2.0 GB"


def mixture(realized: float) -> MixtureFigures:
    """Ten rows of long prompts with one passage: a tenth of all tokens, half of those trained on."""

    def part(tokens: int, trained: int) -> dict[str, int]:
        return {"documents": 10, "examples": 10, "tokens": tokens, "trained_tokens": trained, "truncated": 0}

    sources = {"data.sources[0]": part(900, 100), "general:general": part(100, 100)}
    train = {"documents": 20, "examples": 20, "tokens": 1000, "trained_tokens": 200, "shards": []}
    return MixtureFigures.from_json({
        "tokenizer": "", "max_length": 256, "seed": 0, "order": "", "longest": 90, "dropped": {},
        "splits": {"train": {**train, "by_source": sources}},
        "general_share": {"asked": realized, "realized": realized},
    })  # fmt: skip


@pytest.mark.parametrize(("realized", "of"), [(0.1, "all tokens"), (0.5, "the trained tokens")])
def test_the_share_of_general_text_is_one_number_of_the_tokens_that_it_names(
    realized: float, of: str
) -> None:
    figures, said = mixture(realized), f"{100 * realized:.1f}%"
    assert general_share(figures) == f"{said} of {of}, {said} asked"
    assert f"general text {said} of {of}, {said} asked" in mixture_summary(figures, []).what
    assert source_shares(figures)[1]["general:general"] == said
    (bar,) = (bar for bar in source_bars(figures) if bar.name == "general:general")
    assert bar.shown == f"100 ({said})"
