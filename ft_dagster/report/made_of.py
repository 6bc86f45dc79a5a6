"""What a version was made of as rows: file, digest, rows, licence, and on to the version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.report.tables import count, duration, moment, size
from ft_dagster.store import Artifact

MADE_OF = ("what", "which", "digest", "made")
DIGITS = 12  # of a digest
SPLITS = ("train", "validation", "test")


class MadeRow(NamedTuple):
    """One step; `digest`: twelve digits; `made`: when, UTC."""

    what: str
    which: str
    digest: str
    made: str


def made_rows(
    files: Iterable[Any], artifacts: Mapping[str, Artifact], entry: ReleaseEntry | None
) -> list[MadeRow]:
    """All of it in order; `entry`: the release, of what was released."""
    version = [] if entry is None else [version_row(entry)]
    return [*file_rows(files), *artifact_rows(artifacts), *version]


def artifact_rows(artifacts: Mapping[str, Artifact]) -> list[MadeRow]:
    """Of artifacts by their stage."""
    return [
        MadeRow(
            stage,
            _which(stage, artifact.figures),
            artifact.digest[:DIGITS],
            moment(str(artifact.predicate["created"])),
        )
        for stage, artifact in artifacts.items()
    ]


def file_rows(files: Iterable[Any]) -> list[MadeRow]:
    """Of the files of the tenant's rows (`stages.made_of.SourceFile`)."""
    return [
        MadeRow(
            "file",
            f"{each.file}, {size(each.size)}, licence {each.licence or 'not declared'}",
            str(each.digest)[:DIGITS],
            "",
        )
        for each in files
    ]


def version_row(entry: ReleaseEntry) -> MadeRow:
    """Of the release that all of it came to."""
    return MadeRow("version", f"{entry.version}, released by {entry.by}", "", moment(entry.at))


def _which(stage: str, figures: Mapping[str, Any]) -> str:
    """The one figure by which a person knows an artifact."""
    if stage == "task_dataset":
        rows = figures["rows"]
        return ", ".join(f"{count(rows[split])} {split}" for split in SPLITS if rows.get(split))
    if stage == "general_corpus":
        return f"{count(figures['documents']['train'])} texts"
    if stage == "training_mixture":
        train = figures["splits"]["train"]
        return f"{count(train['examples'])} examples, {count(train['trained_tokens'])} tokens trained on"
    if stage == "training_plan":
        return f"{figures['method']['name']}, {count(figures['steps'])} steps foretold"
    if stage == "fine_tuned_model":
        return f"{count(figures['steps'])} steps in {duration(figures['training_seconds'])}"
    if stage == "base_model" and "parameters" in figures:  # not of a parent's whole model, used where it lies
        return f"{count(figures['parameters'])} weights"
    if stage in ("evaluation", "base_evaluation"):
        return f"{count(figures.get('questions'))} questions"
    return str(figures.get("format", "")) if stage == "model_export" else ""
