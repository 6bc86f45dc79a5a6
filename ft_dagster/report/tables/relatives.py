"""Shows an artifact among what it was made of and what was made of it: rows of a table, and a small
picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ft_dagster.report.charts.svg import Link, chain, fitting
from ft_dagster.report.figures import counted
from ft_dagster.report.tables.lineage_rows import artifact_rows, figure_at
from ft_dagster.stage_entries import ENTRIES, RELEASE
from ft_dagster.store import Artifact

RELATED = ("direction", "artifact", "details", "digest")
ABOVE, BELOW = "made of", "made into"
WORDS = "what it was made of, and what was made of it"


class Relative(NamedTuple):
    """Is an artifact above or below another. `variant`: whose it is, where it is another variant's."""

    artifact: Artifact
    variant: str | None = None


def family_rows(
    above: Sequence[Relative], below: Sequence[Relative], versions: Sequence[int]
) -> list[tuple[str, str, str, str]]:
    """Return rows for the columns RELATED; `versions`: released of it."""
    rows = [(ABOVE, *_row(each)) for each in above]
    rows += [(BELOW, *_row(each)) for each in below]
    return rows + [(BELOW, RELEASE.name, f"version {version}", "") for version in versions]


def _row(one: Relative) -> tuple[str, str, str]:
    """Return kind, details and digest; of another variant it says of which."""
    [row] = artifact_rows({one.artifact.place.stage: one.artifact})
    whose = "" if one.variant is None else f" of {one.variant}"
    return f"{row.what}{whose}", row.which, row.digest


def family_picture(
    above: Sequence[Relative], artifact: Artifact, below: Sequence[Relative], versions: Sequence[int]
) -> str | None:
    """Return markdown of an inline picture, without what has no count; of another variant the last alone.
    What does not fit is left out, the farthest first. None where nothing is above or below.
    """
    before, after = list(_links(above)), [each for each in below if each.variant is None]
    children = [each for each in below if each.variant is not None]
    links = [*before, Link(_words(artifact), here=True), *_links(after)]
    links += [Link(_released(versions))] if versions else []
    links += _links(children)
    near = sorted(enumerate(links), key=lambda each: abs(each[0] - len(before)))
    return fitting(_drawn, near, WORDS) if len(links) > 1 else None


def _drawn(links: Sequence[tuple[int, Link]]) -> str:
    """Draw links with their numbers, in order of these."""
    return chain([link for _, link in sorted(links)])


def _links(relatives: Sequence[Relative]) -> Iterator[Link]:
    last = {each.variant: each.artifact for each in relatives}
    yield from (Link(f"{name} {one.place.stage}") for name, one in last.items() if name is not None)
    for one, variant in relatives:
        if variant is None and _counted(one.place.stage, one.figures):
            yield Link(_words(one))


def _words(artifact: Artifact) -> str:
    said = _counted(artifact.place.stage, artifact.figures)
    return f"{artifact.place.stage} {said}".rstrip()


def _released(versions: Sequence[int]) -> str:
    return f"version {versions[-1]}" + (f" of {len(versions)}" if len(versions) > 1 else "")


def _counted(stage: str, figures: Mapping[str, Any]) -> str:
    """Count what an artifact has, in two words."""
    entry = ENTRIES.get(stage)
    if entry is None or entry.counted is None:
        return ""
    path, one = entry.counted
    found = figure_at(path, figures)
    if not one or found is None:
        return str(found or "")
    return counted(sum(found.values()) if isinstance(found, Mapping) else found, one)
