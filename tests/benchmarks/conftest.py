"""A pack without a download: source, tiny model and rows; the libraries are those of this Python."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.benchmarks.lane import LANE, Run
from tests.present import present


@pytest.fixture(scope="session")
def pack() -> Iterator[ModuleType]:
    """benchmarks/gpu/pack.py as a module."""
    import importlib.util

    folder = str(LANE.parent)
    sys.path.insert(0, folder)
    try:
        found = present(importlib.util.spec_from_file_location("gpu_pack", LANE.with_name("pack.py")))
        module = importlib.util.module_from_spec(found)
        sys.modules["gpu_pack"] = module
        present(found.loader).exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="session")
def packed(pack: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two loads made by pack.py's own parts, for this Python."""
    out = tmp_path_factory.mktemp("pack")
    rows = out / "faq.jsonl"
    lines = [
        {"instruction": f"Which form for house {n}?", "output": f"Form {n % 7} from the town."}
        for n in range(80)
    ]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    half = out / "135m.gguf.1"
    half.write_bytes(b"half a model")
    first = [pack.source(out), *pack.tiny_model(out), pack.Item(rows, "rows/faq.jsonl", "rows")]
    second = [pack.Item(half, "model/135m.gguf.1", "135M model, half 1")]
    python = "{}.{}".format(*sys.version_info)
    pack.write_loads(out, [first, second], python, "13.0")
    return out


@pytest.fixture
def lane(tmp_path: Path) -> Run:
    """Run lane.py in a process of its own, on the CPU, in folders of the test."""

    def run(
        *asked: Any, python: str = sys.executable, seconds: float = 3000
    ) -> subprocess.CompletedProcess[str]:
        command = [python, LANE, "--cpu", "--out", tmp_path / "out", "--work", tmp_path / "work", *asked]
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=seconds
        )

    return run
