"""A base is asked general questions once, by however many variants and at however many places at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ft_dagster.settings import load_settings
from tests.e2e.project import write_project

pytestmark = pytest.mark.slow
VARIANTS = ("acme.places", "globex.places")
PROGRAM = """
import json, sys
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import base_evaluation, base_model, declaration, task_dataset, training_mixture
from ft_dagster.stages.general_corpus import make_corpora
from ft_dagster.workspace.workspace import RunOf, Workspace

said = []
settings = load_settings(sys.argv[1])
make_corpora(settings, "test", said.append)
workspace = Workspace(settings, VariantKey.parse(sys.argv[2]), RunOf("test", "test", said.append))
for module in (declaration, base_model, task_dataset, training_mixture, base_evaluation):
    workspace.make(module.STAGE)
print(json.dumps([line for line in said if line.startswith("general_scores")]))
"""


@pytest.mark.long
def test_two_variants_at_the_same_moment_measure_their_base_once(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    folder = write_project(tmp_path / "project", tiny_model_folder)
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, folder, key], stdout=subprocess.PIPE, text=True)
        for key in VARIANTS
    ]
    said = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    assert sorted(line.split(maxsplit=2)[2] for (line,) in said) == ["made", "reused, no work done"]
    store = Path(load_settings(folder).open_store().root)
    (key,) = (store / "shared" / "general_scores").iterdir()
    assert len([attempt for attempt in key.iterdir() if attempt.is_dir()]) == 1
