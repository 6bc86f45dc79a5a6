"""The store of artifacts and this host's scratch space."""

from pathlib import Path

import dagster as dg

from ft_dagster.settings import Retries, load_settings
from ft_dagster.store import Store


class ArtifactStore(dg.ConfigurableResource[None]):
    """Where artifacts are kept: a folder or an s3:// prefix, as the project's settings say."""

    project: str = ""

    def open(self) -> Store:
        return load_settings(self.project or None).open_store()

    @property
    def work(self) -> Path:
        return load_settings(self.project or None).work_folder

    @property
    def cache(self) -> Path:
        return load_settings(self.project or None).cache_folder

    @property
    def retries(self) -> Retries:
        """How often, and after how long, what a retry can mend is tried again."""
        return load_settings(self.project or None).retries
