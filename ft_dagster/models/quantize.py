"""Quantizes a frozen base: in one place, so that what is judged and served is what was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from ft_dagster.errors import UserError
from ft_dagster.methods.method import Quantization

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import BitsAndBytesConfig

QUANTIZATION_FILE = "quantization.json"
KINDS = get_args(Quantization)


def quantization_config(
    kind: Quantization, compute_dtype: torch.dtype, storage: torch.dtype | None = None
) -> BitsAndBytesConfig:
    """Return how bitsandbytes quantizes: nf4 is 4-bit NormalFloat, its constants quantized too; int8 is
    LLM.int8. The output head is left alone.

    Load with `dtype=compute_dtype` as training does: the weights are rounded to it before they are quantized.
    `storage`: the type that the 4-bit weights lie in (ZeRO-3 shards only floats); their values stay the same.
    """
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
        bnb_4bit_quant_storage=storage,
    )


def settle_quantized(model: Any) -> None:
    """Keep the weights of a model that was loaded quantized as they are, in training and after it.

    On some CPUs bitsandbytes would repack 4-bit weights at the first evaluation, with rounded constants and
    without a gradient.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantized_weights(model: Any, kind: Quantization) -> dict[str, bool]:
    """Return the names of the weights that are quantized when a model is loaded so, and whether they lie as
    [in, out].

    `model`: plain, on the meta device; its layers are replaced.
    """
    import torch
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers.integrations import replace_with_bnb_linear
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer

    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, kept, quantization_config(kind, torch.float32))
    return {
        f"{name}.weight": issubclass(module.source_cls, Conv1D)
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit | Linear8bitLt)
    }


def dequantized_weight(weights: Tensor, kind: Quantization) -> Tensor:
    """Return what float32 `weights` [out, in] of a linear layer become once quantized: float32, on the
    CPU.
    """
    from bitsandbytes import functional
    from bitsandbytes.nn import Int8Params, Params4bit

    if kind == "int8":
        rows = Int8Params(weights, requires_grad=False).to("cpu")
        values: Tensor = functional.int8_vectorwise_dequant(rows.data, rows.SCB)
        return values.float()
    packed = Params4bit(weights, requires_grad=False, compress_statistics=True, quant_type="nf4").to("cpu")
    values = functional.dequantize_4bit(packed.data, packed.quant_state)
    return values.float()


def write_quantization(payload: Path, kind: Quantization) -> None:
    """Say beside an adapter how the base it was trained on was quantized."""
    (payload / QUANTIZATION_FILE).write_text(json.dumps({"quantization": kind}) + "\n", "utf-8")


def quantization_of(payload: Path) -> Quantization | None:
    """Return how the base of this adapter was quantized while training; None: it was not. Raises
    UserError.
    """
    file = payload / QUANTIZATION_FILE
    if not file.exists():
        return None
    try:
        kind = json.loads(file.read_text("utf-8"))["quantization"]
    except (ValueError, KeyError, TypeError):
        kind = None
    if kind not in KINDS:
        raise UserError(
            "does not say how the base was quantized",
            file=file,
            field="quantization",
            value=kind,
            fix=f"Known: {', '.join(KINDS)}. Materialize fine_tuned_model again",
        )
    return cast(Quantization, kind)
