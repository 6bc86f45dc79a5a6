"""Defines the figures of a task_dataset: how many rows were read, kept and left out.

They are stored in dataset.json and in the manifest of the task_dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft_dagster.store import Artifact

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class DatasetFigures:
    """Counts the rows of a data set.

    `rows`: of each split; `read`: rows that were read; `dropped`: reason -> rows; `sources`: declared path
    -> how many rows of it were "read" and "kept"; `formats`: declared path -> the format of its rows;
    `paths`: see `dataset_io.paths_of`; `overlaps`: task -> source -> rows that overlap its questions;
    `too_short_to_look_for`: questions of the evaluation that no row could be held against; `columns`:
    declared path -> see `sources.noting_columns`, None where it was not noted.

    Older data sets lack those with a default.
    """

    rows: Mapping[str, int]
    read: int
    dropped: Mapping[str, int]
    sources: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    overlaps: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    too_short_to_look_for: int = 0
    columns: Mapping[str, Sequence[Sequence[str]]] | None = None

    @property
    def rows_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def test_rows(self) -> int:
        return self.rows.get("test", 0)

    def to_json(self) -> dict[str, object]:
        noted = {name: value for name, value in vars(self).items() if value is not None}
        return {"schema_version": SCHEMA_VERSION, **noted}

    @classmethod
    def of(cls, dataset: Artifact) -> DatasetFigures:
        """Return those of a task_dataset."""
        return cls.from_json(dataset.figures)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DatasetFigures:
        """Read what `to_json` wrote, now or in an older version. Raises KeyError for others."""
        optional = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        required = {name: content[name] for name in ("rows", "read", "dropped")}
        return cls(**{**optional, **required})


def formats_of(dataset: Artifact) -> set[str]:
    """Return the formats of the rows of a task_dataset. Keys are made from them, so nothing else is read."""
    return set(dataset.figures["formats"].values())
