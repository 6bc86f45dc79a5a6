"""The dry run against the real trainer, whole runs, and published figures; what cannot be run is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.dryrun import footprint as dryrun
from ft_dagster.planning.dryrun.architecture import architecture_file, configuration, shipped
from ft_dagster.planning.dryrun.footprint import Footprint, Moment, footprint
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.planning.dryrun.tracker import FROZEN, TRAINED, Tracker
from ft_dagster.planning.dryrun.training_step import numbers, shapes
from ft_dagster.training.callbacks import WatchCallback
from ft_dagster.training.contract import Base, method_settings
from ft_dagster.training.loss import LOGITS
from ft_dagster.training.methods import taught_by
from ft_dagster.training.skeleton import kinds_of_layers
from tests.long import mostly_long
from tests.training.methods.taught import trainer_of
from tests.training.runs import LORA, Runs, write_shard

pytestmark = pytest.mark.slow

FULL = {"name": "full"}
QLORA, BF16_QLORA = {**LORA, "name": "qlora"}, {**LORA, "name": "qlora", "activations": "bf16"}
INT8, DORA = {**LORA, "name": "lora_8bit"}, {**LORA, "use_dora": True}
PISSA = {**LORA, "init_lora_weights": "pissa"}
PROMPT = {"name": "prompt_tuning", "num_virtual_tokens": 8}
PREFIX = {"name": "prefix_tuning", "num_virtual_tokens": 8}
STEP = Step(rows=2, length=48, trained_positions=24)
UNPACKED = replace(STEP, length=24, trained_positions=12, packed=False)
BASE = Base(folder=Path("unused"), digest="0" * 64)
KINDS_OF_ATTENTION = ["full_attention", "sliding_attention"]
SIZES = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip


def tracked(folder: Path, base: Path, method: dict[str, Any], step: Step) -> int:
    """Bytes of the real trainer's step on real tensors: examples of 24 tokens, 12 of them trained."""
    rows = [([10 + (i + at) % 400 for at in range(24)], [12, 24]) for i in range(16)]
    write_shard(folder / "mixture/train/shard-00000.parquet", "train", 0, rows)
    training = {
        "max_steps": 2,
        "per_device_train_batch_size": step.rows,
        "gradient_accumulation_steps": step.gradient_accumulation_steps,
        "max_length": step.length,
        "packing": step.packed,
        "gradient_checkpointing": step.gradient_checkpointing,
        "precision": step.precision,
    }
    runs = Runs(folder, base, folder / "mixture")
    _, trainer = trainer_of(runs.prepare(method=method, training=training))
    trainer.remove_callback(WatchCallback)  # it generates, which is no part of the step
    tracker = Tracker()
    for weight in trainer.model.parameters():
        state = getattr(weight, "quant_state", None)
        scales = [state.absmax, state.state2.absmax] if state else [getattr(weight, "SCB", None)]
        held = [weight, *(scale for scale in scales if scale is not None)]
        tracker.track(held, TRAINED if weight.requires_grad else FROZEN)
    tracker.track(trainer.model.buffers(), FROZEN)
    with tracker:
        trainer.train()
    return max(sum(kinds.values()) for kinds in tracker.peaks().values())


@pytest.mark.parametrize(
    ("method", "step", "tolerance"),
    mostly_long(
        [
            (FULL, STEP, 0.005),
            (FULL, replace(STEP, gradient_checkpointing=True), 0.005),
            (FULL, replace(STEP, gradient_accumulation_steps=2, precision="fp32"), 0.005),
            (LORA, replace(STEP, rows=1), 0.005),
            (LORA, replace(STEP, gradient_checkpointing=True, gradient_accumulation_steps=2), 0.005),
            (LORA, UNPACKED, 0.005),
            (DORA, STEP, 0.005),
            (PISSA, STEP, 0.005),
            (PROMPT, UNPACKED, 0.005),
            (PREFIX, UNPACKED, 0.005),
            (QLORA, STEP, 0.1),
            (BF16_QLORA, STEP, 0.1),
            (INT8, STEP, 0.1),
        ],
        every=4,
    ),
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_the_real_step_holds_what_was_predicted(
    tmp_path: Path, tiny_model_folder: Path, method: dict[str, Any], step: Step, tolerance: float
) -> None:
    found = tracked(tmp_path, tiny_model_folder, method, step)
    assert footprint(tiny_model_folder, method_settings(method), step).peak == pytest.approx(
        found, rel=tolerance
    )


def architecture(folder: Path, **changes: Any) -> Path:
    """A folder with a config.json and nothing else."""
    written = {name: value for name, value in {**SIZES, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def whole(folder: Path, method: dict[str, Any], step: Step) -> Footprint:
    base = Base(folder=folder, digest="0" * 64)
    return dryrun._whole(configuration(folder), base, method_settings(method), step)


@pytest.mark.parametrize(
    ("method", "checkpointing"), mostly_long([(FULL, False), (LORA, True), (QLORA, False)], every=2)
)
def test_a_deep_model_holds_what_its_first_layers_foretell(
    tmp_path: Path, method: dict[str, Any], checkpointing: bool
) -> None:
    folder, step = architecture(tmp_path), replace(STEP, gradient_checkpointing=checkpointing)
    found = footprint(folder, method_settings(method), step)
    assert found.extrapolated
    assert found.at_peak == whole(folder, method, step).at_peak


def test_layers_of_kinds_that_alternate_are_extrapolated_by_their_period(tmp_path: Path) -> None:
    sliding = {"use_sliding_window": True, "sliding_window": 16, "layer_types": KINDS_OF_ATTENTION * 5}
    folder = architecture(tmp_path, model_type="qwen2", num_hidden_layers=10, **sliding)
    found = footprint(folder, method_settings(FULL), STEP)
    assert found.extrapolated
    assert found.peak == whole(folder, FULL, STEP).peak


def test_layers_that_differ_in_a_setting_alone_are_told_apart(tmp_path: Path) -> None:
    """Every fourth layer does not rotate its queries and keys, and so keeps less."""
    folder = architecture(tmp_path, model_type="smollm3", num_hidden_layers=20, pad_token_id=0)
    kinds = kinds_of_layers(shapes(configuration(folder), BASE, taught_by(method_settings(FULL)), STEP))
    assert [kind == kinds[0] for kind in kinds] == [True, True, True, False] * 5
    found = footprint(folder, method_settings(FULL), STEP)
    assert found.extrapolated
    assert found.peak == whole(folder, FULL, STEP).peak


def test_layers_that_differ_are_all_run(tmp_path: Path) -> None:
    folder = architecture(tmp_path)
    method = {**LORA, "target_modules": ["layers.4.mlp.up_proj"]}
    found = footprint(folder, method_settings(method), STEP)
    assert not found.extrapolated
    assert found.trained_weights == 4 * (64 + 128)


def test_experts_further_on_are_noticed(tmp_path: Path) -> None:
    """Five dense layers go before: the first few say nothing of what comes."""
    experts = {"model_type": "qwen3_moe", "head_dim": 16, "moe_intermediate_size": 32, "num_experts": 4}
    routing = {"num_experts_per_tok": 2, "mlp_only_layers": [0, 1, 2, 3, 4]}
    folder = architecture(tmp_path, num_hidden_layers=6, **experts, **routing)
    assert not footprint(folder, method_settings({**LORA, "target_modules": ["q_proj"]}), STEP).extrapolated


@pytest.mark.parametrize(
    ("model", "method", "prepared", "expected"),
    mostly_long(
        [
            ("Llama-3-70B", QLORA, False, 39.5),
            ("Llama-3-70B", QLORA, True, 43.7),
            ("Llama-3-70B", INT8, False, 72.7),
            ("Llama-3-70B", INT8, True, 76.9),
            ("Llama-3-8B", QLORA, False, 5.7),
            ("Llama-3-8B", QLORA, True, 7.8),
        ],
        every=4,
    ),
)
def test_a_quantized_base_in_gigabytes(
    model: str, method: dict[str, Any], prepared: bool, expected: float
) -> None:
    """Prepared for training, embeddings, head and norms go to fp32; under DeepSpeed back to bf16."""
    step = replace(STEP, sharded=not prepared)
    built = shapes(configuration(model), BASE, taught_by(method_settings(method)), step)
    tensors = [weight for weight in built.parameters() if not weight.requires_grad] + list(built.buffers())
    assert round(sum(tensor.nbytes for tensor in tensors) / 1e9, 1) == expected


@pytest.mark.long
def test_a_70b_takes_less_than_two_gigabytes() -> None:
    program = (
        "import json; from ft_dagster.planning.dryrun.footprint import footprint\n"
        "from ft_dagster.planning.dryrun.step import Step\n"
        "from ft_dagster.methods.qlora import QloraSettings\n"
        "from ft_dagster.training.figures import peak_process_bytes\n"
        "step = Step(rows=1, length=512, trained_positions=256, gradient_checkpointing=True, device='cuda')\n"
        "peak = footprint('Llama-3-70B', QloraSettings(), step).peak\n"
        "print(json.dumps([peak_process_bytes(), peak]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    most, peak = json.loads(done.stdout.splitlines()[-1])
    assert most < 2e9
    assert 45e9 < peak < 55e9


@pytest.mark.parametrize(("method", "kept"), [(FULL, True), (LORA, False)])
def test_logits_are_kept_on_a_cpu_and_for_a_trained_head_alone(
    method: dict[str, Any], kept: bool, tmp_path: Path
) -> None:
    folder = architecture(tmp_path, vocab_size=50_000, num_hidden_layers=2)
    cpu, gpu = (footprint(folder, method_settings(method), replace(STEP, device=d)) for d in ("cpu", "cuda"))
    logits = STEP.rows * STEP.trained_positions * 50_000 * 4
    assert (cpu.moments["head"].total - gpu.moments["head"].total > logits) == kept


def test_the_loss_in_parts_holds_what_the_device_takes_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TRL's fused head, as with a learned prompt."""
    folder = architecture(tmp_path, vocab_size=50_000, num_hidden_layers=2)
    held = []
    for positions in (1, STEP.trained_positions):
        monkeypatch.setitem(LOGITS, "cuda", positions * 50_000)
        monkeypatch.setattr(dryrun, "kept", {})
        on_gpu = footprint(folder, method_settings(PROMPT), replace(UNPACKED, device="cuda"))
        held.append(on_gpu.moments["forward"].total)
    assert held[1] - held[0] > (STEP.trained_positions - 1) * 50_000 * 4


def test_every_shipped_architecture_has_its_published_parameters() -> None:
    billions = {name: numbers_of(name) / 1e9 for name in shipped()}
    assert {name: round(count, 2) for name, count in billions.items()} == {
        "CodeLlama-34B": 33.74,
        "Llama-2-7B": 6.74,
        "Llama-2-13B": 13.02,
        "Llama-3-8B": 8.03,
        "Llama-3-70B": 70.55,
        "Qwen2.5-7B": 7.62,
        "Qwen2.5-32B": 32.76,
    }


def numbers_of(name: str) -> int:
    return sum(numbers(shapes(configuration(name), BASE, taught_by(method_settings(FULL)), STEP)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_type": "no-such-model"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"num_attention_heads": 5}, None),
        ({"model_type": "t5", "d_model": 64, "num_layers": 2}, "model_type"),
    ],
    ids=str,
)
def test_a_configuration_that_says_too_little_is_refused(
    tmp_path: Path, changes: dict[str, Any], field: str | None
) -> None:
    with pytest.raises(UserError) as error:
        footprint(architecture(tmp_path, **changes), method_settings(FULL), STEP)
    assert (error.value.field, error.value.file) == (field, str(tmp_path / "config.json"))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Llama-3-8B") as error:
        architecture_file("llama-3-9b")
    assert error.value.field == "model"


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        configuration(tmp_path)


@pytest.mark.parametrize("field", ["rows", "length", "trained_positions", "gradient_accumulation_steps"])
def test_a_step_of_nothing_is_refused(field: str) -> None:
    nothing: dict[str, Any] = {field: 0}
    with pytest.raises(UserError) as error:
        footprint("Llama-3-8B", method_settings(FULL), replace(STEP, **nothing))
    assert error.value.field == field


def test_a_rank_above_the_smallest_layer_is_refused_as_by_the_trainer(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        footprint(architecture(tmp_path), method_settings({**LORA, "rank": 33}), STEP)
    assert (error.value.field, error.value.value) == ("method.rank", 33)


def test_the_peak_is_the_highest_moment() -> None:
    low, high = Moment(1, 1, 1, 1, 1, 1), Moment(1, 1, 1, 1, 9, 1)
    found = Footprint("full", STEP, {"forward": high, "step": low}, 1, 0, extrapolated=False)
    assert (found.peak, found.phase) == (14, "forward")
