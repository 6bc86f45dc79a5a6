"""An export as a person takes it away: its payload with card, certificate and manifest in one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.export.card import FILE
from ft_dagster.store import Artifact, Store, verify


def download(store: Store, export: Artifact, cache: Path, target: Path) -> None:
    """Copy a committed export into the new folder `target`, its payload verified first.

    Beside the payload lie README.md, certificate.json and manifest.json. Raises UserError where the
    target is not empty or the stored bytes are not what they were.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("the target is not an empty folder", file=target, fix="Name a new folder")
    verify(store, export, cache)
    folder = export.folder(store, cache)
    shutil.copytree(folder / "payload", target, dirs_exist_ok=True)
    for name in (FILE, "certificate.json"):
        shutil.copyfile(folder / "evidence" / name, target / name)
    store.download(export.place.manifest, target / "manifest.json")
