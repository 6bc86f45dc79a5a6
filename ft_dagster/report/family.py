"""An artifact among what it was made of and what was made of it: rows of a table, and a small picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ft_dagster.report.made_of import MadeRow, artifact_rows
from ft_dagster.report.svg import Link, chain, fitting
from ft_dagster.report.tables import count, counted
from ft_dagster.store import Artifact

WORDS = "what it was made of, and what was made of it"


class Relative(NamedTuple):
    """An artifact above or below another. `variant`: whose it is, where it is another variant's."""

    artifact: Artifact
    variant: str | None = None


def relative_rows(relatives: Sequence[Relative]) -> list[MadeRow]:
    """One of each; of another variant it says of which."""
    found = []
    for artifact, variant in relatives:
        [row] = artifact_rows({artifact.place.stage: artifact})
        found.append(row if variant is None else row._replace(what=f"{row.what} of {variant}"))
    return found


def version_rows(versions: Sequence[int]) -> list[MadeRow]:
    return [MadeRow("release", f"version {version}", "", "") for version in versions]


def family_picture(
    above: Sequence[Relative], artifact: Artifact, below: Sequence[Relative], versions: Sequence[int]
) -> str | None:
    """Markdown of an inline picture; what does not fit is left out from the end. None where the artifact
    stands alone.
    """
    links = [*map(_link, above), Link(_words(artifact), here=True), *map(_link, below)]
    if versions:
        links.insert(len(above) + 1 + sum(each.variant is None for each in below), Link(_released(versions)))
    return fitting(chain, links, WORDS) if len(links) > 1 else None


def _link(one: Relative) -> Link:
    stage = one.artifact.place.stage
    words = _words(one.artifact) if one.variant is None else f"{one.variant} {stage}"
    return Link(words)


def _words(artifact: Artifact) -> str:
    said = _counted(artifact.place.stage, artifact.figures)
    return f"{artifact.place.stage} {said}".rstrip()


def _released(versions: Sequence[int]) -> str:
    return f"version {versions[-1]}" + (f" of {len(versions)}" if len(versions) > 1 else "")


def _counted(stage: str, figures: Mapping[str, Any]) -> str:
    """How many of what an artifact has, in two words."""
    if stage == "task_dataset":
        return counted(sum(figures["rows"].values()), "row")
    if stage == "training_mixture":
        return counted(figures["splits"]["train"]["examples"], "example")
    if stage == "fine_tuned_model":
        return counted(figures["steps"], "step")
    if stage == "base_model":
        return f"{count(figures['parameters'])} weights"
    if stage in ("evaluation", "base_evaluation"):
        return counted(figures["questions"], "question")
    return ""
