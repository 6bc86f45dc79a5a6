"""A method of PEFT that this package has not, added to a copy of it: two files, and no other one changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ft_dagster

pytestmark = pytest.mark.slow

PACKAGE, ROOT = Path(ft_dagster.__file__).parent, Path(__file__).parents[2]
FILES = {"methods/loha.py": "entry.py", "training/methods/loha.py": "computes.py"}  # of the package


@pytest.mark.long
def test_loha_is_planned_trained_resumed_exported_and_loaded(tmp_path: Path, tiny_model_folder: Path) -> None:
    copy = shutil.copytree(PACKAGE, tmp_path / "ft_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    for place, file in FILES.items():
        shutil.copyfile(Path(__file__).parent / "loha" / file, copy / place)
    tried = subprocess.run(
        [sys.executable, "-m", "tests.methods.loha.tried", tmp_path, tiny_model_folder],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
