"""Load the base model: local files, safetensors only, with the attention that its class supports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.data.rendering.render import note_ends
from ft_dagster.errors import UserError
from ft_dagster.models.attention import attention_of
from ft_dagster.models.stored import loaded_config
from ft_dagster.training.methods import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def on_its_device() -> dict[str, object]:
    """Return how `load_base` puts weights straight into the memory of this rank's GPU, and into none of the
    host's; nothing where it trains on a CPU or by ZeRO-3, or no training was set up yet.
    """
    from accelerate import PartialState
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    if not PartialState._shared_state or is_deepspeed_zero3_enabled():
        return {}
    device = PartialState().device
    return {"device_map": {"": device.index or 0}} if device.type == "cuda" else {}


def load_base(folder: Path, precision: Precision, **options: Any) -> PreTrainedModel:
    """Load the causal language model in `folder`, weights in `precision`. Raises UserError."""
    import torch
    from transformers import AutoModelForCausalLM

    from ft_dagster.training.batches.bounds import call_layers

    if not list(folder.glob("*.safetensors")):
        raise UserError(
            "holds no *.safetensors weights",
            file=folder,
            field="base_model",
            fix="Convert the model with save_pretrained; pickled weights are never loaded",
        )
    try:
        config = loaded_config(folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
            attn_implementation=attention_of(config),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"is not a model that transformers can load: {error}",
            file=folder,
            field="base_model",
            fix="Give a folder written by save_pretrained, of a causal language model",
        ) from None
    model.config.use_cache = False
    call_layers(model.config)
    return model


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in `folder`, with a pad token apart from eos where its vocabulary has one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = _pad_token(tokenizer)
    return note_ends(tokenizer, folder)


def _pad_token(tokenizer: Any) -> str:
    """Choose a pad token: our batches never read padding, but whoever trains or serves this tokenizer next
    may mask pad = eos.
    """
    names = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")
    vocabulary = tokenizer.get_vocab()
    usable = [name for name in names if name in vocabulary and name != tokenizer.eos_token]
    return usable[0] if usable else tokenizer.eos_token
