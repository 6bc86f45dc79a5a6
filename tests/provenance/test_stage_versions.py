"""A stage's code changed: somebody must decide whether its meaning did.

When this fails, either raise the stage's version in provenance/stage_versions.py (its artifacts are then
made anew) or leave it, and in both cases record the decision:
`python -m tests.provenance.test_stage_versions`.
"""

import ast
import json
from pathlib import Path

import pytest

from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.stage_versions import STAGE_CODE, STAGE_VERSIONS

PACKAGE = Path(__file__).resolve().parents[2] / "ft_dagster"
RECORD = Path(__file__).with_name("stage_code.json")


def code_of(stage):
    """A digest of the stage's code without comments, docstrings and layout, and its version."""
    files = []
    for entry in STAGE_CODE[stage]:
        path = PACKAGE / entry
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    trees = {file.relative_to(PACKAGE).as_posix(): ast.unparse(_bare(file)) for file in files}
    return {"version": STAGE_VERSIONS[stage], "code": sha256_json(trees)}


def _bare(file):
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                value.value = ""
    return tree


@pytest.mark.parametrize("stage", STAGE_VERSIONS)
def test_a_stage_whose_code_changed_was_decided_upon(stage):
    recorded = json.loads(RECORD.read_text("utf-8"))
    assert code_of(stage) == recorded[stage], f"{stage}: see the top of {Path(__file__).name}"


if __name__ == "__main__":
    RECORD.write_text(
        json.dumps({stage: code_of(stage) for stage in STAGE_VERSIONS}, indent=1) + "\n", "utf-8"
    )
