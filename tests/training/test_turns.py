"""Members of one process that take turns on one loaded base: each comes out as alone."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from ft_dagster.training.methods import base
from ft_dagster.training.methods.shared import SharedBase
from tests.programs import RunningProgram
from tests.training.runs import LORA, Runs, payload_bytes, result_of, train, wait_for_step
from tests.training.wide_row import STEPS, widening_mixture
from tests.training.wide_row import WIDE as WIDE_ROW

pytestmark = pytest.mark.long

WIDE = {**LORA, "rank": 8, "target_modules": ["q_proj", "v_proj"], "dropout": 0.2}
DORA = {**LORA, "use_dora": True}
SPARE = 1 << 28  # bytes of address space: small steps pass with 1 << 25, a wide row takes more than 1 << 29
PREFIX = {"name": "prefix_tuning", "num_virtual_tokens": 4}
LAST = {"learning_rate": 1e-3, "gradient_checkpointing": True}
Member = tuple[str, dict[str, Any], dict[str, Any]]  # variant, method, what differs of the training


def prepared(
    runs: Runs, *members: Member, base: dict[str, Any] | None = None, **settings: Any
) -> tuple[list[Path], Path]:
    """The run folder of each member alone, and that of all of them together. `base`: changes what run.json
    says of it.
    """
    alone = []
    for number, (variant, method, changes) in enumerate(members):
        given, training = {variant: {"seed": number}}, {**settings, **changes}
        alone.append(runs.prepare(f"alone-{variant}", members=given, method=method, training=training))
    runs_alone = [json.loads((folder / "run.json").read_text()) for folder in alone]
    for folder, run in zip(alone, runs_alone, strict=True):
        run["base"].update(base or {})
        (folder / "run.json").write_text(json.dumps(run))
    together = runs.prepare("together")
    listed = [run["members"][0] for run in runs_alone]
    for member in listed:
        member["output"] = str(together / member["variant"])
    (together / "run.json").write_text(json.dumps({**runs_alone[0], "members": listed}))
    return alone, together


def losses(folder: Path, variant: str) -> list[dict[str, Any]]:
    """What the log tells of each step and look but for time and memory."""
    lines = map(json.loads, (folder / variant / "evidence/log.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if k not in ("seconds", "peak_memory_bytes")} for x in lines]


def assert_as_alone(folder: Path, together: Path, variant: str) -> None:
    assert payload_bytes(together, variant) == payload_bytes(folder, variant)
    assert losses(together, variant) == losses(folder, variant)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_adapters_of_several_kinds_come_out_as_alone_on_one_loaded_base(
    runs: Runs, loads: list[Path], precision: str
) -> None:
    members: list[Member] = [
        ("acme.one", LORA, {}),
        ("acme.wide", WIDE, LAST),
        ("acme.prefix", PREFIX, {}),
        ("acme.dora", DORA, {}),
        ("acme.again", LORA, {"packing": False}),
    ]
    alone, together = prepared(runs, *members, precision=precision)
    assert train(together) == 0
    assert len(loads) == 1
    for folder, (variant, *_) in zip(alone, members, strict=True):
        assert train(folder) == 0
        assert_as_alone(folder, together, variant)


def test_adapters_that_train_rows_of_new_tokens_come_out_as_alone(runs: Runs, loads: list[Path]) -> None:
    members: list[Member] = [("acme.one", LORA, {}), ("acme.wide", WIDE, LAST)]
    alone, together = prepared(runs, *members, base={"new_token_ids": [20, 23, 26]})
    assert train(together) == 0
    assert len(loads) == 1
    for folder, (variant, *_) in zip(alone, members, strict=True):
        assert train(folder) == 0
        assert_as_alone(folder, together, variant)


QLORA = {"name": "qlora"}
BF16_QLORA = {**QLORA, "activations": "bf16"}


@pytest.mark.parametrize("method", [QLORA, BF16_QLORA, {"name": "lora_8bit"}])
def test_adapters_on_a_quantized_base_come_out_as_alone_on_one_loaded_base(
    runs: Runs, loads: list[Path], method: dict[str, Any]
) -> None:
    members: list[Member] = [
        ("acme.one", {**LORA, **method}, {}),
        ("acme.wide", {**WIDE, **method}, LAST),
        ("acme.again", {**LORA, **method}, {"learning_rate": 2e-2}),
    ]
    alone, together = prepared(runs, *members, precision="bf16")
    assert train(together) == 0
    assert len(loads) == 1
    for folder, (variant, *_) in zip(alone, members, strict=True):
        assert train(folder) == 0
        assert_as_alone(folder, together, variant)


def test_a_base_whose_activations_have_another_type_is_loaded_anew(runs: Runs, loads: list[Path]) -> None:
    members: list[Member] = [
        ("acme.older", {**LORA, **QLORA}, {}),
        ("acme.newer", {**LORA, **BF16_QLORA}, {}),
    ]
    alone, together = prepared(runs, *members, precision="bf16")
    assert train(together) == 0
    assert len(loads) == 2
    for folder, (variant, *_) in zip(alone, members, strict=True):
        assert train(folder) == 0
        assert_as_alone(folder, together, variant)


def test_full_and_another_precision_load_a_base_of_their_own(runs: Runs, loads: list[Path]) -> None:
    members: list[Member] = [
        ("acme.one", LORA, {}),
        ("acme.full", {"name": "full"}, {"learning_rate": 1e-3}),
        ("acme.wide", WIDE, {}),
        ("acme.bf16", LORA, {"precision": "bf16"}),
    ]
    alone, together = prepared(runs, *members)
    assert train(together) == 0
    assert len(loads) == 4
    for folder, (variant, *_) in zip(alone, members, strict=True):
        assert train(folder) == 0
        assert_as_alone(folder, together, variant)


def test_a_member_with_bad_data_and_one_that_diverges_fail_alone(runs: Runs, loads: list[Path]) -> None:
    diverging = {"learning_rate": 1e30, "warmup_ratio": 0.0, "num_train_epochs": 8.0}
    members: list[Member] = [
        ("acme.lost", LORA, {}),
        ("acme.one", LORA, {}),
        ("acme.diverging", LORA, diverging),
        ("acme.wide", WIDE, {}),
    ]
    alone, together = prepared(runs, *members)
    content = json.loads((together / "run.json").read_text())
    content["members"][0]["mixture"] = "/nowhere"
    (together / "run.json").write_text(json.dumps(content))
    assert train(together) == 2
    statuses = [result_of(together, variant)["status"] for variant, *_ in members]
    assert statuses == ["failed", "done", "failed", "done"]
    assert result_of(together, "acme.lost")["error"]["field"] == "mixture"
    assert result_of(together, "acme.diverging")["error"]["field"] == "training.learning_rate"
    assert len(loads) == 1
    for number in (1, 3):
        assert train(alone[number]) == 0
        assert_as_alone(alone[number], together, members[number][0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_member_that_was_ended_goes_on_as_alone_and_one_that_was_done_is_kept(
    runs: Runs, start: Callable[..., RunningProgram], number: signal.Signals
) -> None:
    members: list[Member] = [
        ("acme.one", LORA, {}),
        ("acme.support", WIDE, {"num_train_epochs": 12.0, "evaluations": 4, "keep_last": 4}),
        ("acme.after", LORA, {}),
    ]
    alone, together = prepared(runs, *members)
    for folder in alone:
        assert train(folder) == 0
    process = start(together)
    wait_for_step(process, together, result_of(alone[1])["figures"]["steps"] // 2)
    process.send_signal(number)
    assert process.wait() == 128 + number
    if number == signal.SIGINT:
        assert result_of(together)["status"] == "cancelled"
    assert not (together / "acme.after/result.json").exists()
    written = (together / "acme.one/result.json").stat().st_mtime_ns
    assert train(together) == 0
    assert (together / "acme.one/result.json").stat().st_mtime_ns == written
    assert result_of(together)["figures"]["resumed_from"]
    for folder, (variant, *_) in zip(alone, members, strict=True):
        assert payload_bytes(together, variant) == payload_bytes(folder, variant)


def test_a_member_whose_memory_runs_out_fails_alone(runs: Runs, start: Callable[..., RunningProgram]) -> None:
    wide = {name: value for name, value in WIDE_ROW.items() if name != "evaluations"}
    members: list[Member] = [("acme.support", LORA, wide), ("acme.one", LORA, {}), ("acme.after", LORA, {})]
    alone, together = prepared(runs, *members)
    content = json.loads((together / "run.json").read_text())
    content["members"][0]["mixture"] = widening_mixture(runs)
    (together / "run.json").write_text(json.dumps(content))
    process = start(together)
    wait_for_step(process, together, STEPS // 10)
    held = psutil.Process(process.pid).memory_info().vms
    psutil.Process(process.pid).rlimit(resource.RLIMIT_AS, (held + SPARE, held + SPARE))
    _, complained = process.communicate()
    assert process.returncode == 75, complained
    statuses = [result_of(together, variant)["status"] for variant, *_ in members]
    assert statuses == ["failed", "done", "done"]
    assert result_of(together)["reason"] == "out_of_memory"
    for number in (1, 2):
        assert train(alone[number]) == 0
        assert_as_alone(alone[number], together, members[number][0])


def test_the_peak_of_a_member_is_its_own(runs: Runs) -> None:
    """Of what the process held before the first of them, the second knows nothing."""
    members: list[Member] = [("acme.one", LORA, {}), ("acme.wide", WIDE, {})]
    _, together = prepared(runs, *members)
    with mmap(-1, 2**29) as hoard:
        hoard.write(b"1" * 2**29)
    assert train(together) == 0
    one, wide = (result_of(together, variant)["figures"] for variant, *_ in members)
    assert wide["peak_memory_bytes"] < one["peak_memory_bytes"] - 2**28
    assert wide["imported_bytes"] == one["imported_bytes"]


def test_modules_are_lent_anew_over_the_same_weights(tiny_model_folder: Path) -> None:
    shared = SharedBase()

    def load() -> Any:
        return base.load_base(tiny_model_folder, "fp32")

    first, second = shared.lend("fp32", load), shared.lend("fp32", load)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(one is other for one, other in pairs)
    assert not {id(module) for module in first.modules()} & {id(module) for module in second.modules()}
    first.config.use_cache, first.model.layers[0].mlp.forward = True, None
    first.model.register_forward_hook(lambda *_: None)
    third = shared.lend("fp32", load)
    assert third.config.use_cache is False
    assert "forward" not in vars(third.model.layers[0].mlp)
    assert not third.model._forward_hooks


@pytest.mark.parametrize("write", ["in place", "another"])
def test_a_base_that_was_written_to_is_loaded_anew(tiny_model_folder: Path, write: str) -> None:
    shared = SharedBase()

    def load() -> Any:
        return base.load_base(tiny_model_folder, "fp32")

    lent, whole = shared.lend("fp32", load), load()
    weight = lent.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        if write == "in place":
            weight.add_(1)
        else:
            weight.data = weight.data + 1
    again = shared.lend("fp32", load)
    assert torch.equal(again.model.layers[0].mlp.up_proj.weight, whole.model.layers[0].mlp.up_proj.weight)
