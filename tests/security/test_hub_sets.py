"""A tenant's data set of the hub: its own plain files at its commit are read, and nothing else."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.security.projects import QUESTION, QUIZ, SECRET, settle, two_tenants, write
from tests.small_hub import COMMIT, PROPOSED, small_hub

READ = """
import json, sys
from pathlib import Path
from ft_dagster.data.rows.sources import read_hub
from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.load import load_task
from ft_dagster.evaluation.tasks.tasks import resolve_tasks
from ft_dagster.settings import load_settings
from ft_dagster.spec.data import SourceSpec

project, commit, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
roots, said = load_settings(project).roots("acme"), {}

def task(name):
    [entry] = resolve_tasks([f"tasks/{name}.yaml"], project, roots=roots)
    return [list(part.eval_docs) for part in load_task(entry, project / name).parts.values()][0]

def source(name):
    return [row.fields for row in read_hub(SourceSpec(path=f"org/{name}", revision=commit, split="test"))]

for name in names:
    for read in (task, source):
        try:
            said[f"{name} as a {read.__name__}"] = read(name)
        except UserError as error:
            said[f"{name} as a {read.__name__}"] = error.problem
        except Exception as error:
            said[f"{name} as a {read.__name__}"] = type(error).__name__
print(json.dumps(said))
"""


def card(path: str) -> bytes:
    files = f"configs:\n- config_name: default\n  data_files:\n  - split: test\n    path: {path}\n"
    return f"---\n{files}---\n".encode()


def packed(question: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        member = tarfile.TarInfo("q.jsonl")
        member.size = len(question)
        tar.addfile(member, io.BytesIO(question))
    return content.getvalue()


@pytest.mark.slow
def test_a_set_of_the_hub_is_read_from_its_own_files_and_nothing_is_unpacked(tmp_path: Path) -> None:
    project, question = two_tenants(tmp_path), QUESTION.encode()
    there = project / "data/globex/rows.jsonl"
    sets = {
        "plain": {"test.jsonl": question},
        "gzipped": {"test.jsonl.gz": gzip.compress(question)},
        "described": {"README.md": card("x.jsonl"), "x.jsonl": question},
        "moving": {"README.md": card("hf://datasets/org/moving@main/x.jsonl"), "x.jsonl": question},
        "elsewhere": {"README.md": card(str(there)), "x.jsonl": question},
        "packed": {"test.jsonl": packed(question)},
    }
    settle(project, sources={"hub": ["org/*"]})
    for name in [*sets, "proposed"]:
        asked = {
            "dataset_path": f"org/{name}",
            "dataset_kwargs": {"revision": PROPOSED if name == "proposed" else COMMIT},
        }
        write(project / f"tasks/{name}.yaml", {**QUIZ, "task": name, **asked})
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    sets["proposed"] = {"test.jsonl": question}
    with small_hub({f"org/{name}": files for name, files in sets.items()}) as address:
        done = subprocess.run(
            [sys.executable, "-c", READ, str(project), COMMIT, *sets],
            env={**os.environ, **home, "HF_ENDPOINT": address},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name in ("plain", "gzipped", "described"):
        assert said[f"{name} as a task"] == said[f"{name} as a source"] == [json.loads(QUESTION)]
    assert "is not of the default branch of org/proposed" in said["proposed as a task"]
    for name in ("moving as a task", "moving as a source"):
        assert said[name] == "a data set that names files outside of itself"
    for name in ("elsewhere as a task", "elsewhere as a source", "packed as a task", "packed as a source"):
        assert isinstance(said[name], str), said[name]
    assert SECRET not in done.stdout
    assert list((tmp_path / "hf").rglob("q.jsonl")) == []
