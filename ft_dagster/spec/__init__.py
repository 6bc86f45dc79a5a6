"""What a tenant may declare: the one place where a field is defined."""

from ft_dagster.spec.declarations import Declarations, Declared
from ft_dagster.spec.keys import VariantKey
from ft_dagster.spec.load import load_corpus, load_variant, variant_files
from ft_dagster.spec.variant import CorpusSpec, VariantSpec

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
