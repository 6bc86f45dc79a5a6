"""Counts the changes of a variant's rows since an earlier version: how many, never which."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.data.rows.row_changes import identities_now, split_names
from ft_dagster.lineage.entry import RELEASE
from ft_dagster.lineage.graph import StoredGraph, input_of, released_export
from ft_dagster.lineage.release import history
from ft_dagster.records.record_tree import identity_form
from ft_dagster.records.sealed_rows import name_column, shared_key_of
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.store import Artifact
from ft_dagster.versions.version_files import UNREADABLE, told
from ft_dagster.workspace.workspace import Workspace

LOOKED_AT = 10  # versions
TO_ROWS = (FINE_TUNED_MODEL.name, TRAINING_MIXTURE.name, TASK_DATASET.name)  # from an export


class DataChanges(NamedTuple):
    """Holds what rows are known by, by split: `before`, in `version`, and `now`."""

    version: int
    before: dict[str, set[bytes]]
    now: dict[str, set[bytes]]

    @property
    def added(self) -> int:
        return len(_every(self.now) - _every(self.before))

    @property
    def removed(self) -> int:
        return len(_every(self.before) - _every(self.now))


def data_changes(workspace: Workspace, dataset: Artifact) -> DataChanges | None:
    """Compare with the newest version that was made of other rows; None where there is none, or its rows are
    not known any more.
    """
    try:
        earlier = _before(workspace, dataset)
        if earlier is None:
            return None
        version, then = earlier
        folders = [each.folder(workspace.store, workspace.cache) for each in (then, dataset)]
        files = [folder / "evidence" / ORIGINS for folder in folders]
        if not all(file.is_file() for file in files):
            return None
        columns = {shared_key_of(file): name_column(file) for file in files}
        if len(columns) == 1 and identity_form(then.figures) == identity_form(dataset.figures):
            [column] = columns.values()
            found = DataChanges(version, *(split_names(file, column) for file in files))
        else:
            found = DataChanges(version, *(identities_now(folder / "payload") for folder in folders))
    except UNREADABLE as error:
        told(error)  # raises where the storage is out of reach
        return None
    return found if found.before and found.now else None


def _before(workspace: Workspace, dataset: Artifact) -> tuple[int, Artifact] | None:
    store, prefix = workspace.store, workspace.prefix
    released = [entry for entry in reversed(history(store, prefix)) if entry.action == RELEASE]
    graph = StoredGraph(store)
    for entry in islice(released, LOOKED_AT):
        export = released_export(store, prefix, entry)
        rows = None if export is None else input_of(graph, export, *TO_ROWS)
        if rows is not None and rows.digest != dataset.digest:
            return entry.version, rows
    return None


def _every(splits: dict[str, set[bytes]]) -> set[bytes]:
    return set().union(*splits.values())
