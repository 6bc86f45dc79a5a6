"""One more stage, in a copy of the package: what CONTRIBUTING.md says it touches is all that it touches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.project import declaration, write_project, write_yaml

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).resolve().parents[2] / "ft_dagster"
STAGE_FILE = '''"""How many words the rows of a data set have."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import Any

from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS, read_split
from ft_dagster.records.record_tree import FIGURES, TREE
from ft_dagster.stage_entries import TASK_DATASET, WORD_COUNT
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.input_view import View
from ft_dagster.store import Artifact, Attempt


@dataclass(frozen=True)
class WordInputs:
    task_dataset: Artifact


def inputs(view: View) -> WordInputs:
    return WordInputs(view.upstream(TASK_DATASET.name))


def build(inputs: WordInputs, context: BuildContext, attempt: Attempt) -> dict[str, Any]:
    rows = read_split(context.payload(inputs.task_dataset) / "train.parquet")
    words = sum(len(str(turn.content).split()) for row in rows for turn in row.messages)
    (attempt.payload / "words.json").write_text(json.dumps(words), "utf-8")
    for name in (ORIGINS, DROPPED, TREE):
        if (context.evidence(inputs.task_dataset) / name).is_file():
            shutil.copy(context.evidence(inputs.task_dataset) / name, attempt.evidence)
    return {"words": words, "seconds": 7200.0, FIGURES: inputs.task_dataset.figures[FIGURES]}


STAGE = Stage(WORD_COUNT, reads=(TASK_DATASET,), fields=(), inputs=inputs, build=build)
'''
ENTRY = """WORD_COUNT = StageEntry(
    "word_count", 1, has_records=True, device_use="preparation", shown=("{words:,} words",)
)
"""
PAGE = """
def _word_count(workspace: Workspace, artifact: Artifact) -> Page:
    words = artifact.figures["words"]
    return Page(Summary(f"{words} words", "They are counted", "Nothing to do"), {"words": words})

"""
EDITS: dict[str, list[tuple[str, str]]] = {  # file -> what stands there, and what is put before it
    "stage_entries/__init__.py": [
        ("TRAINING_MIXTURE = StageEntry(", ENTRY),
        ("TRAINING_MIXTURE, ANCESTOR_OVERLAP,", "WORD_COUNT, "),
    ],
    "stages/chain.py": [
        ("\n_STAGES: tuple", "from ft_dagster.stages import word_count\n"),
        ("    training_mixture.STAGE,", "    word_count.STAGE,\n"),
    ],
    "assets/data.py": [
        ("\ndef data_assets", f"from ft_dagster.stages import word_count as words_stage\n\n{PAGE}"),
        (
            "        stage_asset(graph, mixture_stage.STAGE",
            "stage_asset(graph, words_stage.STAGE, group=GROUP, kinds={'json'}, describe=_word_count),\n",
        ),
    ],
}
PROGRAM = """
import json, sys
from pathlib import Path

import dagster as dg
import ft_dagster
from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.audit import open_audit
from ft_dagster.audit.records import record
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.build import default_resources
from ft_dagster.fleet.due.costs import cost_rows, read_costs
from ft_dagster.planning.hardware.catalogue import Catalogue
from ft_dagster.report.tables.lineage_rows import artifact_rows
from ft_dagster.settings import load_settings
from ft_dagster.store import read_head

project, row = sys.argv[1:]
names = ("declaration", "task_dataset", "word_count")
with dg.DagsterInstance.ephemeral() as instance:
    instance.add_dynamic_partitions(PARTITIONS, ["acme.places"])
    made = dg.materialize(
        [asset for asset in CHAIN if asset.key.path[-1] in names],
        partition_key="acme.places", instance=instance, resources=default_resources(project),
    )
    events = made.get_asset_materialization_events()
    [shown] = [each for each in events if each.asset_key.path == ["word_count"]]
settings = load_settings(Path(project))
store = settings.open_store()
head = read_head(store, "tenants/acme/places", "word_count")
audit = open_audit(settings)
[asset] = [asset for asset in CHAIN if asset.key.path[-1] == "word_count"]
[costs] = cost_rows(read_costs(store, Catalogue(())).items, lambda item: item.tenant)
print(json.dumps({
    "package": str(Path(ft_dagster.__file__).parent),
    "above": [key.path[-1] for key in asset.asset_deps[asset.key]],
    "metadata": sorted(shown.step_materialization_data.materialization.metadata),
    "words": head.figures["words"],
    "row": artifact_rows({"word_count": head})[0].which,
    "found": sorted({one.stage for one in record(audit, parse_record(row)).found}),
    "hours": costs.preparation_hours,
}))
"""


def with_the_stage(folder: Path) -> set[str]:
    """Copy the package and add the stage; the files of the package that it touches."""
    package = shutil.copytree(PACKAGE, folder / "ft_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "stages" / "word_count.py").write_text(STAGE_FILE, "utf-8")
    for name, edits in EDITS.items():
        text = (package / name).read_text("utf-8")
        for there, before in edits:
            assert text.count(there) == 1, (name, there)
            text = text.replace(there, before + there)
        (package / name).write_text(text, "utf-8")
    return {"stages/word_count.py", *EDITS}


@pytest.mark.long
def test_a_stage_of_four_files_is_an_asset_with_figures_and_known_to_audit_and_costs(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    touched = with_the_stage(tmp_path / "copy")
    project = write_project(tmp_path / "project", tiny_model_folder)
    declared = declaration(tiny_model_folder)
    declared["data"]["decontaminate"] = {"enabled": False}
    write_yaml(project / "tenants" / "acme" / "places.yaml", declared)
    row = (project / "data" / "rows.jsonl").read_text("utf-8").splitlines()[0]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(project), row],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "copy")},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["package"] == str(tmp_path / "copy" / "ft_dagster")
    assert said["above"] == ["task_dataset"]
    assert {"summary", "words", "digest", "record_tree"} <= set(said["metadata"])
    assert said["words"] > 0
    assert said["row"] == f"{said['words']:,} words"
    assert said["found"] == ["task_dataset", "word_count"]
    assert said["hours"] == 2.0
    assert len(touched) == 4
