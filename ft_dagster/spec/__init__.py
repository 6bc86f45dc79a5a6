"""What a tenant may declare: the one place where a field is defined."""

from ft_dagster.spec.keys import VariantKey
from ft_dagster.spec.load import Declared, load_corpus, load_variant, variant_files
from ft_dagster.spec.variant import CorpusSpec, VariantSpec

__all__ = [
    "CorpusSpec",
    "Declared",
    "VariantKey",
    "VariantSpec",
    "load_corpus",
    "load_variant",
    "variant_files",
]
