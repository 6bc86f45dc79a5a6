"""Answers through vLLM, as far as no vLLM is needed: what is refused, and that an adapter has to act.

With vLLM itself: tests/e2e/test_serving.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.vllm_model import Worker, refuse_idle
from ft_dagster.launch import rank
from ft_dagster.models.quantize import write_quantization
from ft_dagster.provenance.held import HeldFiles, descriptors_below
from tests.evaluation.payloads import make_payload

HOW: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
BASE, TUNED = [-1.0, -2.0, -0.5, -3.0], [-0.5, -2.5, -0.4, -1.0]


def refused(plain: list[float], adapted: list[float]) -> bool:
    try:
        refuse_idle(BASE, TUNED, plain, adapted)
    except UserError as error:
        return error.field == "evaluation.engine" and "evaluation.engine: transformers" in str(error.fix)
    return False


def test_an_adapter_that_changes_what_it_changes_in_transformers_acts() -> None:
    assert not refused(BASE, TUNED)
    assert not refused([x + 0.02 for x in BASE], [x + 0.03 for x in TUNED])


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0, -1.0])
def test_an_adapter_that_is_not_there_or_is_scaled_otherwise_is_refused(share: float) -> None:
    changed = [before + share * (after - before) for before, after in zip(BASE, TUNED, strict=True)]
    assert refused(BASE, changed)


def test_a_change_below_what_the_engines_differ_by_has_to_be_one_at_all() -> None:
    noisy = [x + 2.0 for x in BASE]
    assert refused(noisy, noisy)
    assert not refused(noisy, [x + 0.001 for x in noisy])


@pytest.mark.parametrize("python", [Path(sys.executable), Path("/nowhere/bin/python")])
def test_an_environment_without_vllm_is_one_error(
    tiny_model_folder: Path, tmp_path: Path, python: Path
) -> None:
    with pytest.raises(UserError, match=r"vLLM (ended before it answered|does not start)") as error:
        Worker(python, tiny_model_folder, None, **HOW, scratch=tmp_path / "scratch")
    assert error.value.field == "evaluation.engine"


def test_a_worker_gets_no_credentials_and_holds_the_lease_and_half_an_answer_is_one_error(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the place of that environment's Python says what it was given, and ends in a line."""
    python, lock = tmp_path / "python", tmp_path / "lock"
    told = tmp_path / "told"
    python.write_text(f"""#!/bin/sh\nenv > {told}\nreadlink /proc/$$/fd/* >> {told}\nprintf '{{"version'\n""")
    python.chmod(0o755)
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    monkeypatch.setitem(rank._held, "token", [descriptor])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    with pytest.raises(UserError, match="ended before it answered"):
        Worker(python, tiny_model_folder, None, **HOW, scratch=tmp_path / "scratch")
    os.close(descriptor)
    said = told.read_text()
    assert "AWS_SECRET" not in said
    assert "KVCACHE" not in said
    assert "PATH=" in said
    assert str(lock) in said.splitlines()


@pytest.mark.parametrize(("kind", "why"), [("prefix", "prompt or prefix"), ("tokens", "rows of the vocab")])
def test_an_adapter_that_vllm_does_not_load_is_refused(
    tiny_model_folder: Path, tmp_path: Path, kind: str, why: str
) -> None:
    adapter = make_payload(kind, tiny_model_folder, tmp_path / kind)
    with pytest.raises(UserError, match=why):
        Worker(Path(sys.executable), tiny_model_folder, adapter, **HOW, scratch=tmp_path / "scratch")


def test_an_adapter_on_a_quantized_base_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    adapter = make_payload("lora", tiny_model_folder, tmp_path / "adapter")
    write_quantization(adapter, "nf4")
    with pytest.raises(UserError, match="quantized base"):
        Worker(Path(sys.executable), tiny_model_folder, adapter, **HOW, scratch=tmp_path / "scratch")


def test_another_program_reads_held_files_through_the_descriptors_that_were_hashed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_text("hashed")
    held = HeldFiles(tmp_path / "held")
    folder = held.tree("base", source).folder
    (tmp_path / "other").write_text("swapped")
    (tmp_path / "other").rename(source / "weights")
    numbers = descriptors_below(folder)
    asked = ["cat", str(folder / "weights")]
    read = subprocess.run(asked, pass_fds=numbers, capture_output=True, text=True, check=True)
    held.close()
    assert read.stdout == "hashed"
