"""Exports an adapter as PEFT lays it out, with tokenizer and stop tokens: to be put on one base, beside
others.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import ADAPTER_CONFIG, ADAPTER_WEIGHTS, kind_of
from ft_dagster.evaluation.models.loaded_by_vllm import MAX_RANKS, max_lora_rank, not_loaded, rank_of
from ft_dagster.export.serving import save_serving_files
from ft_dagster.models.quantize import QUANTIZATION_FILE, quantization_of
from ft_dagster.program import write_json

SETS = ("target_modules", "target_parameters", "exclude_modules")  # as PEFT writes them


def export_adapter(base: Path, base_digest: str, weights: Path, target: Path) -> dict[str, object]:
    """Write the adapter of a trained model into `target`; returns figures (rank, tensors, stop tokens).

    Raises UserError for a whole model, an adapter that its base cannot carry, whole modules in it or a rank
    above what servers load. What PEFT serves and vLLM does not is written all the same, without the figure
    `vllm_max_lora_rank`; the card says why.
    """
    if kind_of(weights) == "model":
        raise UserError(
            "a whole model was trained: it has no adapter",
            file=weights,
            field="export.format",
            value="adapter",
            fix="Declare `export: merged`",
        )
    config = read_adapter_config(weights, base_digest)
    _check_served(config, weights / ADAPTER_CONFIG)
    tensors = check_shapes(base, weights)
    copy_adapter(weights, config, target)
    figures = {
        "rank": config.get("r"),
        "vllm_max_lora_rank": None if not_loaded(config) else max_lora_rank(rank_of(config)),
        "virtual_tokens": config.get("num_virtual_tokens"),
        "trained_token_rows": _token_rows(config),
        "quantization": quantization_of(weights),
        "tensors": tensors,
        "stop_token_ids": save_serving_files(base, weights, target),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _check_served(config: dict[str, object], file: Path) -> None:
    """Raises UserError for whole modules, and for a rank that no server takes."""
    if config.get("modules_to_save"):
        raise UserError(
            "an adapter that carries whole modules is not loaded by servers such as vLLM",
            file=file,
            field="modules_to_save",
            value=config["modules_to_save"],
            fix="Declare `export: merged`, or train without modules_to_save",
        )
    if max_lora_rank(rank_of(config)) is None:
        raise UserError(
            f"servers such as vLLM load adapters of rank {MAX_RANKS[-1]} at most",
            file=file,
            field="r",
            value=rank_of(config),
            fix=f"Declare `export: merged`, or train with method.rank {MAX_RANKS[-1]} or less",
        )


def read_adapter_config(adapter: Path, base_digest: str) -> dict[str, object]:
    """Read adapter_config.json, its base named by digest. Raises UserError if missing or of another base."""
    file = adapter / ADAPTER_CONFIG
    for needed in (file, adapter / ADAPTER_WEIGHTS):
        if not needed.exists():
            raise UserError("missing", file=needed, fix="Train the variant again: its adapter is not whole")
    config: dict[str, object] = json.loads(file.read_text("utf-8"))
    reference = f"sha256:{base_digest}"
    if config.get("base_model_name_or_path") != reference:
        raise UserError(
            f"trained on another base than {reference}",
            file=file,
            field="base_model_name_or_path",
            value=config.get("base_model_name_or_path"),
            fix="Export with the base it was trained on, or train again on this one",
        )
    return config


def copy_adapter(adapter: Path, config: dict[str, object], target: Path) -> None:
    """Copy the weights byte for byte, and the configuration with sorted keys and lists, since PEFT writes
    sets.

    How its base was quantized is kept beside it.
    """
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(adapter / ADAPTER_WEIGHTS, target / ADAPTER_WEIGHTS)
    ordered = {
        name: sorted(value) if name in SETS and isinstance(value, list) else value
        for name, value in config.items()
    }
    write_json(target / ADAPTER_CONFIG, ordered)
    if (adapter / QUANTIZATION_FILE).exists():
        shutil.copyfile(adapter / QUANTIZATION_FILE, target / QUANTIZATION_FILE)


def check_shapes(base: Path, adapter: Path) -> int:
    """Compare each tensor's name and shape with what PEFT builds for this base; returns their number.

    The base is built without memory (meta device). Raises UserError naming the first that differs.
    """
    from safetensors import safe_open

    expected = _expected_shapes(base, adapter)
    file = adapter / ADAPTER_WEIGHTS
    with safe_open(file, "pt") as tensors:
        found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.offset_keys()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            has, takes = found.get(name, "none"), expected.get(name, "none")
            raise UserError(
                f"tensor {name} has shape {has}, the base takes {takes}",
                file=file,
                fix="Train the variant again; an adapter fits only the base it was trained on",
            )
    return len(found)


def _expected_shapes(base: Path, adapter: Path) -> dict[str, tuple[int, ...]]:
    from peft.utils import get_peft_model_state_dict

    adapted = adapted_without_memory(model_without_memory(base), base, adapter)
    return {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(adapted).items()}


def model_without_memory(base: Path) -> Any:
    """Return the base's model on the meta device: names, shapes and ties, no numbers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config)


def adapted_without_memory(model: Any, base: Path, adapter: Path) -> Any:
    """Return the PeftModel that PEFT makes of a model on the meta device. Raises UserError where it
    cannot.
    """
    import torch
    from peft import PeftConfig, get_peft_model

    config = PeftConfig.from_pretrained(adapter)
    config.base_model_name_or_path = str(base)  # PEFT looks up the base's vocabulary there
    try:
        with torch.device("meta"):
            return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"the base cannot carry this adapter: {str(error).splitlines()[0]}",
            file=adapter / ADAPTER_CONFIG,
            fix="Export with the base it was trained on",
        ) from None


def _token_rows(config: dict[str, object]) -> int | None:
    """Count the rows of the vocabulary that the adapter carries; None without."""
    trained = config.get("trainable_token_indices")
    if not trained:
        return None
    if isinstance(trained, dict):
        return len(set().union(*trained.values()))
    return len(trained) if isinstance(trained, list) else None
