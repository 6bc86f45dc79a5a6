"""Loading a base, alone or with an adapter, from local safetensors; nothing here reaches a hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def load_model(folder: Path, device: str = "cpu") -> PreTrainedModel:
    """A causal language model in the dtype it is stored in, in evaluation mode. Raises UserError."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"not a model folder with safetensors weights: {str(error).splitlines()[0]}",
            file=folder,
            fix="Give a folder with config.json and *.safetensors",
        ) from None
    return model.to(device).eval()


def load_adapted(base: Path, adapter: Path, device: str = "cpu") -> Any:
    """The base with the adapter on it (a PeftModel), all of it in float32: bf16 weights widen exactly."""
    from peft import PeftModel

    model = load_model(base, device).float()
    return PeftModel.from_pretrained(model, adapter, is_trainable=False).eval()


def tokenizer_folder(base: Path, adapter: Path) -> Path:
    """Where the tokenizer that was trained with is: beside the adapter, else beside the base."""
    return adapter if (adapter / "tokenizer_config.json").exists() else base
