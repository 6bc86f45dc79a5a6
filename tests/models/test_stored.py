"""Bases stored in FP8 or MXFP4 are dequantized as they are loaded; what cannot be is refused at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import load_base as load_judged
from ft_dagster.evaluation.models.load import load_tuned
from ft_dagster.exit_codes import DONE
from ft_dagster.export.merging import merge_weights
from ft_dagster.model_files.weights import WEIGHTS, measure_weights
from ft_dagster.models import load_report
from ft_dagster.models.base import resolve_base
from ft_dagster.models.stored import lacking, stored_words
from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.shapes import tensors
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.training.methods.base import load_base
from tests.long import mostly_long
from tests.planning.llama import spec
from tests.tiny_classes import make_tiny
from tests.training.methods.taught import distance
from tests.training.runs import Runs, result_of, train, write_mixture

pytestmark = pytest.mark.slow
BLOCK = 32
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def in_fp8(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(tensors as stored, the weights that they stand for): blocks of 32 x 32 with a scale each."""
    stored, meant = dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in weights.items():
        stored[name] = meant[name] = weight
        if name.endswith("_proj.weight"):
            rows, columns = (size // BLOCK for size in weight.shape)
            blocks = weight.reshape(rows, BLOCK, columns, BLOCK)
            scale = blocks.abs().amax((1, 3), keepdim=True) / 448
            stored[name] = (blocks / scale).to(torch.float8_e4m3fn).reshape(weight.shape)
            stored[f"{name}_scale_inv"] = scale.reshape(rows, columns)
            meant[name] = (stored[name].float().reshape(blocks.shape) * scale).reshape(weight.shape)
    return stored, meant


def in_mxfp4(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same for experts: two values of 4 bits in a byte, 32 of them with a power of two."""
    stored, meant = dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in weights.items():
        stored[name] = meant[name] = weight
        if name.endswith("_proj") and ".experts." in name:
            turned = weight.transpose(1, 2)
            groups = turned.reshape(*turned.shape[:2], -1, BLOCK)
            power = (groups.abs().amax(-1, keepdim=True) / 6).log2().ceil()
            code = (groups[..., None] / power.exp2()[..., None] - E2M1).abs().argmin(-1)
            del stored[name]
            stored[f"{name}_blocks"] = (code[..., ::2] | code[..., 1::2] << 4).to(torch.uint8)
            stored[f"{name}_scales"] = (power.squeeze(-1) + 127).to(torch.uint8)
            meant[name] = (E2M1[code] * power.exp2()).reshape(turned.shape).transpose(1, 2)
    return stored, meant


FORMS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "fp8": ("llama", in_fp8, {"weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}),
    "mxfp4": ("gpt_oss", in_mxfp4, {"modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}),
}


def stored_base(folder: Path, method: str) -> tuple[Path, dict[str, Tensor]]:
    """A base that is stored by a method of quantization, and the weights that it stands for."""
    kind, quantized, more = FORMS[method]
    base = make_tiny(kind, folder / method)
    tensors, meant = quantized(load_file(base / WEIGHTS))
    save_file({name: each.contiguous() for name, each in tensors.items()}, base / WEIGHTS, {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, **more}
    (base / "config.json").write_text(json.dumps(config))
    return base, meant


@pytest.fixture(scope="module", params=mostly_long(FORMS, every=2))
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return stored_base(tmp_path_factory.mktemp("stored"), request.param)


def test_it_trains_on_and_is_judged_by_the_weights_that_its_files_stand_for(stored: Any) -> None:
    base, meant = stored
    for model in (load_base(base, "fp32"), load_judged(base, dtype="float32")):
        found = model.state_dict()
        for name, weight in meant.items():
            assert torch.allclose(found[name].float(), weight.float(), rtol=1e-2, atol=1e-4), name
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_lora_trains_on_it(stored: Any, tmp_path: Path) -> None:
    runs = Runs(tmp_path, stored[0], write_mixture(tmp_path / "mixture"))
    experts = ["experts.down_proj", "experts.gate_up_proj"] if tensors(stored[0]).experts else None
    method = {"target_modules": ["q_proj"], "dropout": 0.0, "target_parameters": experts}
    folder = runs.prepare(training={"max_steps": 2, "evaluations": 1}, method=method)
    assert train(folder) == DONE, result_of(folder)
    assert bool(result_of(folder)["figures"].get("expert_matrices_moved")) is bool(experts)
    tuned = load_tuned(stored[0], folder / "acme.support/payload", dtype="float32", widen=True)
    assert distance(tuned, load_judged(stored[0], dtype="float32")) > 1e-3


def test_its_weights_are_counted_as_they_are_loaded(stored: Any) -> None:
    base, meant = stored
    counted = measure_weights(base, [WEIGHTS]).parameters
    assert counted == pytest.approx(sum(each.numel() for each in meant.values()), rel=0.01)


def compressed(folder: Path, *bits: int) -> Path:
    """A base in compressed tensors as far as its headers say: 4-bit weights, eight in a number."""
    base = make_tiny("llama", folder)
    sizes = {"q.weight_packed": (8, 4), "q.weight_shape": (2,)}
    packed = {name: torch.zeros(size, dtype=torch.int32) for name, size in sizes.items()}
    plain = {
        "q.weight_scale": torch.zeros(8, 1),
        "norm.weight": torch.zeros(8),
        "experts.up": torch.zeros(2, 3),
    }
    save_file({**packed, **plain}, base / WEIGHTS, {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    groups = {str(each): {"weights": {"num_bits": each}} for each in bits}
    config["quantization_config"] = {"quant_method": "compressed-tensors", "config_groups": groups}
    (base / "config.json").write_text(json.dumps(config))
    return base


def test_compressed_tensors_are_counted_by_their_bits_and_the_plan_says_that_none_was_loaded(
    tmp_path: Path,
) -> None:
    base = compressed(tmp_path, 4)
    assert measure_weights(base, [WEIGHTS]).parameters == 8 * 4 * 8 + 8 + 6
    assert "not run yet" in str(stored_words(base / "config.json"))
    lines = plan(base, method="lora").estimate.warnings
    assert any(
        "stored in compressed-tensors, dequantized as it is loaded: not run yet" in each for each in lines
    )


@pytest.mark.parametrize("bits", [(4, 8), (), (3,)])
def test_compressed_tensors_of_other_bits_are_refused_rather_than_counted(
    tmp_path: Path, bits: tuple[int, ...]
) -> None:
    with pytest.raises(UserError, match="no one number of bits") as error:
        measure_weights(compressed(tmp_path, *bits), [WEIGHTS])
    assert error.value.field == "quantization_config"


def context_of(base: Path) -> PlanContext:
    return PlanContext(base, Hardware("cpu", 1, "CPU", 8 * 10**9, 1e12, True, 0.1))


def plan(base: Path, **declared: Any) -> Any:
    known = facts(
        shapes_of_configuration(base / "config.json"), examples=400, tokens=20_000, max_length=128,
        device_kind="cpu", ranks=1, device_memory=8 * 10**9, bf16=False,
    )  # fmt: skip
    return make_plan(spec(**declared), replace(known, longest=100), context_of(base))


def test_the_plan_says_so_and_counts_the_weights_as_they_are_loaded(tmp_path: Path) -> None:
    base, meant = stored_base(tmp_path, "fp8")
    estimate = plan(base, method="lora").estimate
    assert any(
        line.startswith("the base is stored in fp8, dequantized as it is loaded;")
        for line in estimate.warnings
    )
    assert estimate.plan.memory_bytes.frozen >= 4 * sum(each.numel() for each in meant.values())


def test_what_would_quantize_it_again_or_merge_into_it_is_refused_with_the_way_out(tmp_path: Path) -> None:
    base, _ = stored_base(tmp_path, "fp8")
    for declared, field in (({"method": "qlora"}, "method.name"), ({"export": "merged"}, "export.format")):
        with pytest.raises(UserError) as error:
            plan(base, **{"method": "lora", **declared})
        assert error.value.field == field
        assert "in 16 bits" in str(error.value.fix)
    with pytest.raises(UserError, match="stored in fp8"):
        merge_weights(base, tmp_path / "adapter", tmp_path / "merged")


def test_a_base_whose_library_is_missing_is_refused_when_it_is_looked_at(tmp_path: Path) -> None:
    base, _ = stored_base(tmp_path, "fp8")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "aqlm"}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded here") as error:
        resolve_base(BaseModelSpec(source=str(base)), tmp_path, tmp_path / "cache")
    assert error.value.field == "quantization_config"
    assert "in 16 bits" in str(error.value.fix)


def test_how_it_is_stored_is_asked_of_transformers_once(
    stored: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Any]()

    def noted(said: Any) -> str | None:
        asked.append(said)
        return lacking(said)

    monkeypatch.setattr(load_report, "lacking", noted)
    for _ in range(2):
        resolve_base(BaseModelSpec(source=str(stored[0])), tmp_path, tmp_path / "cache")
    assert len(asked) == 1
