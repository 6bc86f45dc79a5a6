"""The process that writes an artifact into the store is killed: it is there whole, or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.store import Store, find_artifact, verify_artifact
from ft_dagster.store.make import Recipe

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parent / "programs" / "commit.py"
RECIPE = Recipe("declaration", "tenants/acme/support", spec={"of": "chaos"}, variant="acme.support")
Moment = Callable[[Path], object]


def payload(store: Path) -> list[Path]:
    return list((store / RECIPE.place.path).glob("*/payload/*"))


MOMENTS: dict[str, Moment] = {
    "the attempt is begun": lambda store: (store / RECIPE.place.path).exists(),
    "half of the payload is written": lambda store: len(payload(store)) >= 75,
    "the payload is hashed": lambda store: len(payload(store)) >= 150,
    "the source is kept": lambda store: (store / "shared/code").exists(),
    "the manifest is drafted": lambda store: list((store / RECIPE.place.path).glob("*manifest.json*")),
    "the manifest is committed": lambda store: (store / RECIPE.place.manifest).exists(),
}


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), str(folder / "store"), str(folder / "work")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    said, _ = start(tmp_path_factory.mktemp("commit")).communicate(timeout=60)
    return said.strip()


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_when(tmp_path: Path, undisturbed: str, moment: str) -> None:
    process = start(tmp_path)
    deadline = time.monotonic() + 60
    while not MOMENTS[moment](tmp_path / "store"):
        assert process.poll() is None, "it ended before that moment"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()
    store = Store(str(tmp_path / "store"))
    half = find_artifact(store, RECIPE.place)
    if half is not None:
        verify_artifact(store, half, tmp_path / "cache")
    said, _ = start(tmp_path).communicate(timeout=60)
    artifact = find_artifact(store, RECIPE.place)
    assert artifact is not None
    assert said.strip() == artifact.digest == undisturbed
    verify_artifact(store, artifact, tmp_path / "cache")
    assert "divergences" not in store.names(RECIPE.place.path)
