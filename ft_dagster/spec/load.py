"""Loads one declaration at a time, as its file says it now. For more of them, take one view:
`Declarations`.
"""

from __future__ import annotations

from pathlib import Path

from ft_dagster.spec.declarations import Declarations, Declared, corpus_file, corpus_files
from ft_dagster.spec.defaults import SHORTHANDS
from ft_dagster.spec.keys import VariantKey
from ft_dagster.spec.variant import CorpusSpec
from ft_dagster.spec.yaml_files import read_yaml

__all__ = [
    "SHORTHANDS",
    "Declared",
    "corpus_file",
    "corpus_files",
    "load_corpus",
    "load_variant",
    "read_yaml",
    "variant_files",
]


def variant_files(project: Path) -> dict[VariantKey, Path]:
    """Return every tenants/<tenant>/<variant>.yaml of the project whose name is a key, by key."""
    return dict(Declarations(project).files)


def load_variant(project: Path, key: VariantKey) -> Declared:
    """Read tenants/<tenant>/<variant>.yaml over tenants/defaults.yaml. Raises UserError."""
    return Declarations(project).declared(key)


def load_corpus(project: Path, name: str, *, asked_by: object = None) -> CorpusSpec:
    """Read corpora/<name>.yaml. Raises UserError."""
    return Declarations(project).corpus(name, asked_by=asked_by)
