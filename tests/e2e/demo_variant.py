"""A variant of the demo, with its real model, as a project of one variant that any kind of host can run."""

from __future__ import annotations

import os
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.e2e.project import write_yaml

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"
VARIANT = "tenants/zaragoza/building-faq.yaml"
BUILDS = ("packages", "models", "data", ".ft_dagster", "__pycache__")


def prepared_demo(folder: Path) -> Path:
    """Copy the demo as it is in the repository, and fetch its model and its data."""
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns(*BUILDS))
    for _ in runpy.run_path(str(folder / "prepare.py"))["prepare"](folder, say=lambda line: None):
        pass
    return folder


def project_of(demo: Path) -> Callable[[Path, Path], Path]:
    """Return what writes a project of the prepared demo's variant, as `write_project` does: acme.places. What
    it has of the demo are links of one file.
    """

    def write(folder: Path, base: Path) -> Path:
        del base
        shutil.copytree(demo, folder, copy_function=os.link, ignore=shutil.ignore_patterns("tenants"))
        (folder / "ft_dagster.yaml").unlink()
        write_yaml(
            folder / "ft_dagster.yaml", {"host": {"cpu_slots": 2, "lock_folder": str(folder / "leases")}}
        )
        (folder / "tenants").mkdir()
        shutil.copy(demo / "tenants/defaults.yaml", folder / "tenants/defaults.yaml")
        declared = yaml.safe_load((demo / VARIANT).read_text("utf-8"))
        write_yaml(folder / "tenants/acme/places.yaml", {**declared, "resources": {"cpu_slots": 1}})
        return folder

    return write
