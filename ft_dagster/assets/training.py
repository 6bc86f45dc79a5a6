"""Builds the group training: the plan carried out by the trainer program."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from ft_dagster.assets.adapter import stage_asset
from ft_dagster.assets.page import Metadata, Page, lines, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.assets.without_training import without_training
from ft_dagster.report.charts.svg import curves, fitting, trade_off
from ft_dagster.report.sentences.summaries import training_summary
from ft_dagster.report.training import (
    ESTIMATED,
    FIGURES,
    QUESTIONS,
    RIGHT,
    Course,
    asked,
    course_of,
    estimated_rows,
    figure_rows,
    plotted,
    smoothed,
)
from ft_dagster.stages import fine_tuned_model as stage
from ft_dagster.store import Artifact
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.workspace.workspace import Workspace


def _fine_tuned_model(workspace: Workspace, artifact: Artifact) -> Page:
    """Return curves, figures, what was estimated, and in words what to try next."""
    figures, log = TrainingFigures.of(artifact), _log(workspace.evidence(artifact))
    entries = {
        "advice": lines([*([figures.stop_reason] if figures.stop_reason else []), *figures.advice]),
        **_learned_and_forgot(course_of(log, figures)),
        **_asked(asked(log)),
        **without_training(workspace),
        "figures": table(FIGURES, figure_rows(figures)),
        "estimates": table(ESTIMATED, estimated_rows(figures)),
        **plotted(figures),
        "micro_batch_halved": figures.micro_batch_halved,
        **({"lowered_rate": rate} if (rate := figures.learning_rate_lowered) else {}),
    }
    found = smoothed(log)
    picture = fitting(lambda some: curves(dict(some)), list(found.items()), "losses")
    return Page(training_summary(figures), entries, picture)


def _learned_and_forgot(course: Course | None) -> Metadata:
    """Return learning and forgetting in words, and as a picture where it stays inline."""
    if course is None:
        return {}
    picture = fitting(lambda one: trade_off(one[0]), [course], "learning against forgetting")
    drawn = {} if picture is None else {"forgetting": dg.MetadataValue.md(picture)}
    return {"learned_and_forgot": course.sentence, **drawn}


def _asked(lines: Mapping[str, Sequence[tuple[float, float]]]) -> Metadata:
    """Return the general questions that were asked while it trained, beside the base's, as a picture."""
    picture = fitting(lambda some: curves(dict(some), RIGHT), [*lines.items()], QUESTIONS)
    return {} if picture is None else {"general_questions": dg.MetadataValue.md(picture)}


def _log(evidence: Path) -> Sequence[dict[str, object]]:
    return [json.loads(line) for line in (evidence / "log.jsonl").read_text("utf-8").splitlines()]


def training_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    kinds = {"torch", "huggingface"}
    return [stage_asset(graph, stage.STAGE, group="training", kinds=kinds, describe=_fine_tuned_model)]
