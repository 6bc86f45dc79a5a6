"""`python -m ft_dagster.export RUN_DIR`, as the launcher starts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.evaluation.models.load import load_base
from ft_dagster.provenance.digest import hash_folder, payload_digest
from tests.export.exports import MakeAdapter, MakeRequest
from tests.programs import RunningProgram

pytestmark = pytest.mark.slow


def run(tmp_path: Path, content: dict[str, Any]) -> tuple[int, str, dict[str, Any]]:
    """The exit code of the program, all that it said, and its result.json."""
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    program = RunningProgram("export", tmp_path)
    code, (said, _) = program.wait(), program.communicate()
    file = Path(content["output"]) / "result.json"
    return code, said, json.loads(file.read_text("utf-8")) if file.exists() else {}


def test_a_merged_export_leaves_payload_card_certificate_and_figures(
    make_adapter: MakeAdapter, make_request: MakeRequest, tmp_path: Path
) -> None:
    content = make_request(make_adapter(), format="merged")
    stale = Path(content["output"]) / "payload" / "of-an-earlier-try"
    stale.parent.mkdir(parents=True)
    stale.touch()

    code, said, result = run(tmp_path, content)
    assert code == 0, said
    output = Path(content["output"])
    certificate = json.loads((output / "evidence" / "certificate.json").read_text("utf-8"))
    files = hash_folder(output / "payload")
    assert result["status"] == "done"
    assert result["figures"]["size_bytes"] == sum(file.size for file in files)
    assert certificate["passed"]
    assert certificate["payload"] == payload_digest(files)
    assert certificate["judged"] == content["weights_digest"]
    assert (output / "evidence" / "README.md").exists()
    assert not stale.exists()
    assert {file.stat().st_mode & 0o777 for file in (output / "payload").glob("*.*")} == {0o644}


def test_weights_swapped_after_they_were_judged_are_refused(
    make_adapter: MakeAdapter, make_request: MakeRequest, tmp_path: Path
) -> None:
    content = make_request(make_adapter())
    make_adapter(scale=0.2)  # into the same folder

    code, said, result = run(tmp_path, content)
    assert code == 2
    assert "not the weights that were asked for" in result["error"]["problem"]
    assert len(said.strip().splitlines()) == 1


def test_a_certificate_that_does_not_hold_ends_the_program_with_the_way_out(
    make_adapter: MakeAdapter, make_request: MakeRequest, tmp_path: Path, tiny_model_folder: Path
) -> None:
    """The base is stored in float16, whose largest number the merged weights exceed."""
    base = shutil.copytree(tiny_model_folder, tmp_path / "base")
    load_base(base).half().save_pretrained(base)
    content = make_request(make_adapter(base, scale=1e6), base=base, format="merged")

    code, said, result = run(tmp_path, content)
    assert code == 2, said
    assert "the certificate does not hold: " in result["error"]["problem"]
    assert "export: adapter" in result["error"]["fix"]
    evidence = Path(content["output"]) / "evidence"
    assert json.loads((evidence / "certificate.json").read_text("utf-8"))["passed"] is False


def test_a_request_with_a_wrong_field_is_refused_by_its_name(
    make_adapter: MakeAdapter, make_request: MakeRequest, tmp_path: Path
) -> None:
    code, said, _ = run(tmp_path, {**make_request(make_adapter()), "format": "gguf"})
    assert code == 2
    assert "run.json: format" in said
