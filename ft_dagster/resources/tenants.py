"""The project folder: what tenants declare."""

from dataclasses import dataclass
from pathlib import Path

from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import CorpusSpec, Declarations, Declared, VariantKey


@dataclass(frozen=True)
class Tenants:
    """Declarations, read afresh each time: a new file needs no restart.

    `project`: the folder with tenants/ and corpora/; empty: $FT_DAGSTER_PROJECT or the current one.
    """

    project: str = ""

    def settings(self) -> Settings:
        return load_settings(self.project or None)

    @property
    def folder(self) -> Path:
        return self.settings().project

    def declarations(self) -> Declarations:
        """All of them as they stand now: one view for whoever asks about more than one."""
        return Declarations(self.folder)

    def variants(self) -> list[VariantKey]:
        return list(self.declarations())

    def declared(self, key: VariantKey) -> Declared:
        return self.declarations().declared(key)

    def corpora(self) -> dict[str, CorpusSpec]:
        declarations = self.declarations()
        return {name: declarations.corpus(name) for name in declarations.corpus_files()}
