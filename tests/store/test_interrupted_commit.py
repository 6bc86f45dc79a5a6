"""Ctrl-C at any line of the store's code while an artifact is made: nothing committed is lost."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ft_dagster.store import Attempt, Store, artifacts, attempts, blobs, find_artifact, make, verify_artifact
from ft_dagster.store.make import Recipe, make_artifact

RECIPE = Recipe("task_dataset", "tenants/acme/support", spec={"data": 1})
ROOM = {module.__file__ for module in (artifacts, attempts, blobs, make)}


def build(attempt: Attempt) -> dict[str, Any]:
    (attempt.payload / "rows.txt").write_text("rows")
    (attempt.evidence / "log.txt").write_text("log")
    return {"rows": 1}


class CtrlC:
    """Raises KeyboardInterrupt at the line of the store's code that comes after so many of them."""

    def __init__(self, lines: int) -> None:
        self.left = lines

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in ROOM:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


def interrupted(store: Store, work: Path, lines: int) -> bool:
    """Whether making the artifact was interrupted at that line, or was over before."""
    ctrl_c = CtrlC(lines)
    sys.settrace(ctrl_c)
    try:
        make_artifact(store, work, RECIPE, build)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    assert ctrl_c.left > 0
    return False


def noted(store: Store, digest: str) -> list[str]:
    """The keys by which who knows the digest finds it, without a look at all that was made."""
    return store.names(attempts.digests_folder(RECIPE.prefix, RECIPE.stage, digest))


@pytest.mark.slow
def test_what_a_manifest_names_is_there_wherever_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "keep_source", lambda store: "c" * 64)  # 0.1 s for each new store
    committed, lines = 0, 1
    while interrupted(store := Store(str(tmp_path / f"store-{lines}")), tmp_path / "work", lines):
        standing = find_artifact(store, RECIPE.place)
        if standing is not None:
            committed += 1
            assert noted(store, standing.digest) == [standing.place.key]
            verify_artifact(store, standing, tmp_path / "cache")
        made = make_artifact(store, tmp_path / "work", RECIPE, build)
        verify_artifact(store, made, tmp_path / "cache")
        assert made.reused == (standing is not None)
        lines += 1
    assert lines > 40
    assert committed > 10, "no interrupt fell between the manifest and the return"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_an_error_after_the_manifest_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    store = Store(str(tmp_path / "store"))

    def find(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(attempts, "find_artifact", find)
        with pytest.raises(error):
            make_artifact(store, tmp_path, RECIPE, build)
    artifact = find_artifact(store, RECIPE.place)
    assert artifact is not None
    verify_artifact(store, artifact, tmp_path / "cache")
