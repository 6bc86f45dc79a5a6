"""Says how a base is stored that is quantized, and loads it as plain weights where transformers can.

FP8, MXFP4 and compressed tensors are dequantized as they are loaded, on any device: what trains, is judged
and certified has the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.model_files.weights import read_header, read_json, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

QUANTIZED = "quantization_config"
PLAIN = ("F64", "F32", "F16", "BF16")
DEQUANTIZED = ("fp8", "mxfp4", "compressed-tensors")  # methods by which transformers can
UNSEEN = ("compressed-tensors",)  # of which no base was loaded
IN_16_BITS = (
    "take the base in 16 bits, or such a copy of it: load it with dequantize=True, and save_pretrained"
)


def stored_as(config: Path) -> str | None:
    """Return the method by which a base is stored that is dequantized as it is loaded; None of any other.
    `config`: its config.json.
    """
    method = _method(read_json(config).get(QUANTIZED))
    weighed = method and any(config.parent.glob("*.safetensors"))
    return None if weighed and is_plain(config.parent) else method


def stored_words(config: Path, *, on_gpu: bool = False) -> str | None:
    """Say how a base that is stored quantized is loaded, and where that has not run; None of any other."""
    stored = stored_as(config)
    if stored is None:
        return None
    unseen = "yet" if stored in UNSEEN else "on a GPU yet" if on_gpu else None
    return f"stored in {stored}, dequantized as it is loaded" + (f": not run {unseen}" if unseen else "")


def is_plain(folder: Path) -> bool:
    """Say whether the files hold plain floats alone: any quantization stores integers or 8-bit floats."""
    headers = (read_header(folder / name) for name in weight_files(folder))
    return all(tensor["dtype"] in PLAIN for header in headers for tensor in header.values())


def _method(said: Any) -> str | None:
    method = said.get("quant_method") if isinstance(said, Mapping) else None
    return method if method in DEQUANTIZED else None


def loaded_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of a model folder as it is loaded: one by which weights come out plain."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    said = getattr(config, QUANTIZED, None)
    if said and _method(said):
        config.quantization_config = {**said, "dequantize": True}
    return config


def lacking(said: Mapping[str, Any]) -> str | None:
    """Say what this host lacks to load a base that is stored so; None where it lacks nothing that is known.
    `said`: its quantization_config.
    """
    from transformers.quantizers.auto import AutoHfQuantizer

    asked = {**said, "dequantize": True} if _method(said) else dict(said)
    try:
        AutoHfQuantizer.from_config(asked, pre_quantized=True).validate_environment(
            device_map=None, weights_only=True
        )
    except ImportError as error:
        return str(error).strip().splitlines()[0][:160]
    except Exception:  # another device may have what this one has not
        return None
    return None


def refuse_requantized(config: Path, method: str) -> None:
    """Raises UserError for a method that quantizes a base which is stored quantized by another."""
    stored = stored_as(config)
    if stored:
        raise UserError(
            f"would quantize a base that is stored in {stored}, which transformers does not do as it loads",
            field="method.name",
            value=method,
            fix=f"Use lora, or {IN_16_BITS}",
        )


def refuse_merged(config: Path) -> None:
    """Raises UserError for a base whose stored tensors are not the weights that an update is added to."""
    stored = stored_as(config)
    if stored:
        raise UserError(
            f"would add an adapter to tensors that are stored in {stored}",
            field="export.format",
            value="merged",
            fix=f"Declare export: adapter, or {IN_16_BITS}",
        )
