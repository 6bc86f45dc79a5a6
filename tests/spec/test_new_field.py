"""Three more fields of a declaration, in a copy of the package: each touches at most three files, those that
CONTRIBUTING.md says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ft_dagster.launch.warm import choice
from tests.finished import copied

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
Edit = tuple[str, str]  # what stands in a file once, and what is put before it
TRAINING: dict[str, list[Edit]] = {
    "spec/training.py": [
        (
            "    warmup_ratio: Fraction",
            "    adam_beta2: float = Field(\n"
            "        0.999, gt=0, lt=1, description='Decay of the mean of the squared gradients'\n"
            "    )\n",
        ),
        ('"on_bad_rate", "share_beginnings")', '"adam_beta2", '),
    ],
    "training/arguments.py": [
        ("        weight_decay=settings.weight_decay,", "        adam_beta2=settings.adam_beta2,\n")
    ],
}
METHOD: dict[str, list[Edit]] = {
    "methods/lora.py": [
        (
            '    name: str = "lora"',
            "    q_alpha: Annotated[\n"
            "        float | None, Field(gt=0, le=1024, description='Alpha of the queries')\n"
            "    ] = None\n",
        ),
        ('"target_parameters", "init_lora_weights")', '"q_alpha", '),
        (
            '    "use_rslora": SettingDefault',
            "    'q_alpha': SettingDefault(None, 'that of all layers'),\n",
        ),
    ],
    "training/methods/lora.py": [
        (
            '            bias="none",',
            "            alpha_pattern={} if settings.q_alpha is None else {'q_proj': settings.q_alpha},\n",
        )
    ],
}
DATA: dict[str, list[Edit]] = {
    "spec/data.py": [
        (
            "    sources: tuple[RowSource, ...]",
            "    least_letters: int = Field(\n"
            "        0, ge=0, le=10_000, description='A row with fewer is left out'\n"
            "    )\n",
        ),
        ('"reasoning", "chat_template_kwargs", "max_malformed")', '"least_letters", '),
    ],
    "data/rows/dataset.py": [
        ("        self._near_turns: list[str] = []", "        self._least = spec.least_letters\n"),
        (
            "        if self._seen is not None and not",
            "        if sum(len(text) for _, text in row.parts) < self._least:\n"
            "            return Dropped('too few letters')\n",
        ),
    ],
    "stages/task_dataset.py": [('"data.max_malformed")', '"data.least_letters", ')],
}


def with_the_fields(package: Path) -> None:
    """Copy the package and add the fields."""
    shutil.copytree(ROOT / "ft_dagster", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, edits in (*TRAINING.items(), *METHOD.items(), *DATA.items()):
        text = (package / name).read_text("utf-8")
        for there, before in edits:
            assert text.count(there) == 1, (name, there)
            text = text.replace(there, before + there)
        (package / name).write_text(text, "utf-8")


def test_each_field_touches_three_files_that_have_its_place(tmp_path: Path) -> None:
    assert max(map(len, (TRAINING, METHOD, DATA))) <= 3
    with_the_fields(tmp_path / "ft_dagster")


@pytest.mark.long
def test_a_field_of_three_files_is_shown_planned_obeyed_and_a_cause(
    tmp_path: Path, finished_project: Path
) -> None:
    with_the_fields(tmp_path / "copy" / "ft_dagster")
    project = copied(finished_project, tmp_path / "project")
    tried = subprocess.run(
        [sys.executable, "-m", "tests.spec.new_field", project],
        env={**os.environ, choice.START: "off", "PYTHONPATH": f"{tmp_path / 'copy'}:{ROOT}"},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
