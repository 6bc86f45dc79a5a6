"""Reads the project folder: what tenants declare."""

from dataclasses import dataclass
from pathlib import Path

from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations


@dataclass(frozen=True)
class Tenants:
    """Reads declarations afresh each time: a new file needs no restart.

    `project`: the folder with tenants/ and corpora/; empty: $FT_DAGSTER_PROJECT or the current one.
    """

    project: str = ""

    def settings(self) -> Settings:
        return load_settings(self.project or None)

    @property
    def folder(self) -> Path:
        return self.settings().project

    def declarations(self) -> Declarations:
        """Return all declarations as they stand now: one view for whoever asks about more than one."""
        return Declarations(self.folder)
