"""Defines what a tenant may declare: the one place where a field is defined."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft_dagster.spec.declarations import Declarations, Declared
    from ft_dagster.spec.keys import VariantKey
    from ft_dagster.spec.load import load_corpus, load_variant, variant_files
    from ft_dagster.spec.variant import CorpusSpec, VariantSpec

_DEFINED_IN = {  # imported when first asked for: a key alone needs no fields
    "CorpusSpec": "variant",
    "Declarations": "declarations",
    "Declared": "declarations",
    "VariantKey": "keys",
    "VariantSpec": "variant",
    "load_corpus": "load",
    "load_variant": "load",
    "variant_files": "load",
}
__all__ = [
    "CorpusSpec",
    "Declarations",
    "Declared",
    "VariantKey",
    "VariantSpec",
    "load_corpus",
    "load_variant",
    "variant_files",
]


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        return getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
