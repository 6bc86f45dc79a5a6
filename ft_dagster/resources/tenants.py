"""The project folder: what tenants declare."""

from pathlib import Path

import dagster as dg

from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import CorpusSpec, Declared, VariantKey, load_corpus, load_variant, variant_files


class Tenants(dg.ConfigurableResource[None]):
    """Declarations, read afresh each time: a new file needs no restart."""

    project: str = ""  # the folder with tenants/ and corpora/; empty: $FT_DAGSTER_PROJECT or the current one

    def settings(self) -> Settings:
        return load_settings(self.project or None)

    @property
    def folder(self) -> Path:
        return self.settings().project

    def variants(self) -> list[VariantKey]:
        return list(variant_files(self.folder))

    def declared(self, key: VariantKey) -> Declared:
        return load_variant(self.folder, key)

    def corpora(self) -> dict[str, CorpusSpec]:
        names = sorted(file.stem for file in (self.folder / "corpora").glob("*.yaml"))
        return {name: load_corpus(self.folder, name) for name in names}
