"""What the stages decide: which cases run, what is skipped and why, what counts as wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

GPU = {
    "device": "cuda", "card": "NVIDIA H100", "cuda": "13.0", "free_bytes": 10_000_000_000,
    "total_bytes": 80_000_000_000, "python": "3.12.3", "libraries": {"torch": "2.11.0"},
}  # fmt: skip


@pytest.fixture
def stages(pack: ModuleType) -> Any:
    """The modules of the stages, by name."""
    import importlib

    names = ("common", "__main__", "foretold", "profiled", "trainings", "planned", "models", "bounded")
    return SimpleNamespace(**{name: importlib.import_module(f"stages.{name}") for name in names})


@pytest.fixture
def context(stages: Any, tmp_path: Path) -> Callable[..., Any]:
    def make(stage: str = "made", **machine: Any) -> Any:
        return stages.common.Context(
            stage=stage, out=str(tmp_path), work=str(tmp_path / "work"), loads="", machine={**GPU, **machine},
            pack="p", cuda_of_pack="13.0", real=True, deadline=0.0, file=str(tmp_path / f"{stage}.json"),
        )  # fmt: skip

    return make


@pytest.fixture
def run(stages: Any, context: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run made cases, name -> work, as the stage `made`; (exit code, its result)."""

    def call(**works: Callable[[], dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        module: Any = ModuleType("stages.made")
        module.cases = lambda _context: [stages.common.Case(name, work) for name, work in works.items()]
        monkeypatch.setitem(sys.modules, "stages.made", module)
        file = tmp_path / "context.json"
        file.write_text(json.dumps(context().__dict__))
        code = stages.__main__.main(file)
        return code, json.loads((tmp_path / "made.json").read_text())

    return call


def test_a_case_that_is_wrong_skipped_or_broken_does_not_stop_the_next(stages: Any, run: Any) -> None:
    def wrong() -> dict[str, Any]:
        raise stages.common.Wrong("off by 20%", {"off": 0.2})

    def skipped() -> dict[str, Any]:
        raise stages.common.Skipped("needs a card")

    code, result = run(
        wrong=wrong, skipped=skipped, broken=lambda: {"x": 1 / 0}, right=lambda: {"said": "as it should be"}
    )
    cases = result["cases"]
    assert (code, result["status"]) == (3, "done")
    assert (cases["wrong"]["status"], cases["wrong"]["reason"], cases["wrong"]["off"]) == (
        "failed",
        "off by 20%",
        0.2,
    )
    assert (cases["skipped"]["status"], cases["skipped"]["reason"]) == ("skipped", "needs a card")
    assert cases["broken"]["reason"] == "ZeroDivisionError: division by zero"
    assert cases["right"]["said"] == "as it should be"


def test_what_is_done_is_kept_and_what_never_ran_comes_before_what_failed(run: Any) -> None:
    ran: list[str] = []

    def work(name: str, fails: bool = False) -> Callable[[], dict[str, Any]]:
        def call() -> dict[str, Any]:
            ran.append(name)
            return {"x": 1 / 0} if fails else {}

        return call

    run(first=work("first"), second=work("second", fails=True))
    code, result = run(first=work("first"), second=work("second"), third=work("third"))
    assert ran == ["first", "second", "third", "second"]
    assert code == 0
    assert {case["status"] for case in result["cases"].values()} == {"done"}


def test_too_little_memory_a_card_in_use_and_another_cuda_are_skipped_with_the_reason(
    stages: Any, context: Callable[..., Any]
) -> None:
    skipped = stages.common.Skipped
    with pytest.raises(skipped, match=r"needs 12.0 GB, 10.0 are free"):
        context().need_memory(12_000_000_000)
    context().need_memory(9_000_000_000)
    with pytest.raises(skipped, match=r"others use 7.0 GB of the card"):
        context(in_use_bytes=7_000_000_000).need_whole_card()
    context().need_whole_card()
    with pytest.raises(skipped, match=r"for CUDA 13.0, here is 12.8"):
        context(cuda="12.8").need_bitsandbytes()
    context().need_bitsandbytes()


def test_foretold_bytes_that_are_off_by_more_than_a_tenth_are_wrong(
    stages: Any, context: Callable[..., Any]
) -> None:
    said = stages.planned.Foretold(allocated=100, reserved=110, total=600, phase="head")
    measured = {"peak_device_memory_bytes": 95, "peak_device_reserved_bytes": 105}
    found = stages.foretold.held_against(said, measured, context())
    assert found["off"]["allocated"] == pytest.approx(100 / 95 - 1)
    with pytest.raises(stages.common.Wrong, match="more than 10% off") as wrong:
        stages.foretold.held_against(said, {**measured, "peak_device_reserved_bytes": 90}, context())
    assert wrong.value.figures["measured"]["reserved"] == 90


def test_made_rows_fill_their_bins_and_train_where_the_plan_says(stages: Any) -> None:
    from ft_dagster.training.batches.packing import pack

    rows = stages.trainings.full_rows(5, 64)
    lengths = np.array([len(ids) for ids, _ in rows])
    bins = pack(lengths, np.arange(len(rows)), 64)
    assert [int(lengths[each].sum()) for each in bins] == [64] * 5
    trained = sum(end - start for _, (start, end) in rows[:2])
    assert trained == stages.planned.Shape(1, 64, checkpointing=False).trained


def test_the_devices_busy_time_counts_overlapping_kernels_once(stages: Any) -> None:
    from torch.autograd import DeviceType

    def event(start: float, end: float, kind: Any = DeviceType.CUDA) -> Any:
        return SimpleNamespace(device_type=kind, time_range=SimpleNamespace(start=start, end=end))

    events = [event(0, 10), event(5, 12), event(6, 8), event(20, 30), event(0, 99, DeviceType.CPU)]
    assert stages.profiled.busy(events) == pytest.approx(22e-6)


def test_hybrids_are_skipped_with_the_reason_where_their_kernels_are_missing(
    stages: Any, context: Callable[..., Any]
) -> None:
    for machine, why in (({"device": "cpu"}, "on a GPU alone"), ({}, "not installed, or too old to read")):
        for case in stages.bounded.cases(context("bounded", **machine)):
            with pytest.raises(stages.common.Skipped, match=why):
                case.run()
