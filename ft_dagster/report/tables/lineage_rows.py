"""Shows what a version was made of as rows: file, digest, rows, licence, and on to the version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any, NamedTuple

from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.report.figures import duration, moment, size
from ft_dagster.stage_entries import ENTRIES
from ft_dagster.store import Artifact

MADE_OF = ("artifact", "details", "digest", "made")
DIGITS = 12  # of a digest


class MadeRow(NamedTuple):
    """Is one step. `digest`: twelve digits; `made`: when, UTC."""

    what: str
    which: str
    digest: str
    made: str


class _Words(Formatter):
    """Format strings in which `:duration` writes seconds as a person would."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return duration(value) if format_spec == "duration" else str(format(value, format_spec))


_WORDS = _Words()


def made_rows(
    files: Iterable[Any], artifacts: Mapping[str, Artifact], entry: ReleaseEntry | None
) -> list[MadeRow]:
    """Return all of it in order; `entry`: the release, of what was released."""
    version = [] if entry is None else [version_row(entry)]
    return [*file_rows(files), *artifact_rows(artifacts), *version]


def artifact_rows(artifacts: Mapping[str, Artifact]) -> list[MadeRow]:
    """Return the rows of artifacts by their stage."""
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
    """Return the rows of the files of the tenant's rows (`stages.judging.export_lineage.SourceFile`)."""
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
    """Return the row of the release that all of it came to."""
    return MadeRow("version", f"{entry.version}, released by {entry.by}", "", moment(entry.at))


def _which(stage: str, figures: Mapping[str, Any]) -> str:
    """Say the figures by which a person knows an artifact; nothing of a stage that is no more."""
    entry = ENTRIES.get(stage)
    parts = () if entry is None else entry.shown
    return ", ".join(_WORDS.vformat(part, (), figures) for part in parts if _has_figure(part, figures))


def figure_at(path: str, figures: Mapping[str, Any]) -> Any:
    """Return the figure at a path such as splits[train][examples]; None where there is none."""
    try:
        return _WORDS.get_field(path, (), figures)[0]
    except LookupError:
        return None


def _has_figure(part: str, figures: Mapping[str, Any]) -> bool:
    first = next(path for _, path, _, _ in _WORDS.parse(part) if path)
    return bool(figure_at(first, figures))
