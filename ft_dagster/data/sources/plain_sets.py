"""Limits what the datasets library may read for a tenant: rows of plain files that lie where the set was
named.

Left to itself it unpacks what begins like an archive, follows paths that a set says of itself, and opens what
a row names as its image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

# Builders of the datasets library that read plain files: such a task needs no network.
FILE_BUILDERS = {"arrow", "csv", "json", "parquet", "text", "xml"}
# What columns of such files hold. An image, a video and their like are opened by a path that the row says.
_PLAIN = {"ClassLabel", "Json", "LargeList", "List", "Translation", "TranslationVariableLanguages", "Value"}


def extract_nothing() -> None:
    """Let the datasets library unpack nothing in this process: an archive's members may leave their folder.

    A compressed file with a name that says so (`rows.jsonl.gz`) is read all the same: while it is read.
    """
    from datasets.utils.extract import ExtractManager

    ExtractManager.extract = lambda self, input_path, force_extract=False: input_path


def foreign_files(builder: Any, *, named: bool, commit: str | None) -> str | None:
    """Say why a builder of the datasets library would not read the plain files of its set: in words, or None.

    `named`: each data file was named, not found by the library. `commit`: of a set of the hub.
    """
    if builder.name == "cache":  # without a hub the library takes the newest that it has, whatever was asked
        return None if commit == builder.hash else "this host has only another revision of the data set"
    if builder.name not in FILE_BUILDERS:
        return f"not a data set of plain files: the datasets library takes it for {builder.name}"
    if named or not builder.base_path:
        return None
    base = builder.base_path if "://" in builder.base_path else os.path.realpath(builder.base_path)
    files = [str(file) for split in (builder.config.data_files or {}).values() for file in split]
    within = all(file.startswith(f"{base}/") and ".." not in file.split("/") for file in files)
    return None if within else "a data set that names files outside of itself"


def media_columns(features: Any) -> list[str]:
    """Return the columns that hold no plain values, sorted. `features`: of a data set; None: not known before
    it is read, as of text, which holds nothing else.
    """
    return sorted(name for name, feature in (features or {}).items() if set(_kinds(feature)) - _PLAIN)


def _kinds(feature: Any) -> Iterator[str]:
    if isinstance(feature, dict | list | tuple):
        for inner in feature.values() if isinstance(feature, dict) else feature:
            yield from _kinds(inner)
        return
    yield type(feature).__name__
    if hasattr(feature, "feature"):
        yield from _kinds(feature.feature)
