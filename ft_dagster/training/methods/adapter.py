"""Builds what the adapter methods share: a small trained part on a frozen base, saved in a layout others
load.
"""

from __future__ import annotations

import importlib.util
import json
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.methods.method import Quantization
from ft_dagster.models.quantize import quantization_config, settle_quantized, write_quantization
from ft_dagster.training.contract import Base
from ft_dagster.training.methods import Precision, TaughtBy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ft_dagster.training.methods import Weights

ADAPTER = "default"  # PEFT's name of the adapter that is trained, and the only one that is saved
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


class Learned(NamedTuple):
    """Holds an adapter as it is saved: PEFT's configuration, and the tensors by the names that PEFT loads."""

    config: dict[str, Any]
    tensors: Weights


class Adapter(TaughtBy):
    """Trains by a method that PEFT knows; subclasses say with which configuration. `activations`: the type of
    what is not quantized of a quantized base; None: fp32.
    """

    activations: Precision | None = None

    def build(self, base: Base, precision: Precision, seed: int) -> PreTrainedModel:
        """Return a PEFT model: the base frozen in `precision` or quantized, the adapter in fp32."""
        import torch
        from peft import get_peft_model
        from transformers import set_seed

        self.check(base)
        model = self._load(base, precision)
        config = self.configure(model, base)
        set_seed(seed)  # the adapter's first weights are drawn at random
        try:
            model = get_peft_model(model, config)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise UserError(
                f"the base model cannot be taught this way: {error}",
                file=base.folder,
                field="method.name",
                value=self.name,
                fix="Use lora or full",
            ) from None
        model.create_or_update_model_card = lambda folder: None  # of every checkpoint; nobody reads it
        self.settle(model)
        if self.quantization:
            # TRL rounds the trained weights of a model that says it is quantized to bf16.
            model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
        return model

    def _load(self, base: Base, precision: Precision) -> PreTrainedModel:
        from ft_dagster.training.methods.base import load_base, on_its_device

        if self.quantization:
            return self.prepare(_quantized(self.name, self.quantization, base, precision))
        return load_base(base.folder, precision, **on_its_device())

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Prepare a quantized base to be trained above: frozen, and what is not quantized of it in the type
        of the activations, since bitsandbytes gives what it multiplies the type of its input.
        """
        from peft import prepare_model_for_kbit_training

        if self.activations is None:
            return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for weight in model.parameters():  # which were loaded in that type
            if weight.is_floating_point() and weight.device.type == "cpu":
                weight.data = weight.data.clone()  # or the whole file stays mapped for them
        return model.requires_grad_(False)

    def check(self, base: Base) -> None:
        """Refuse what can be refused before the base is loaded. Raises UserError."""

    @abstractmethod
    def configure(self, model: PreTrainedModel, base: Base) -> Any:
        """Return PEFT's configuration for this base. Raises UserError."""

    def settle(self, model: PreTrainedModel) -> None:
        """Change how the layers of a PEFT model compute, not what."""
        from ft_dagster.training.methods.frozen_norm import norms_in_one_piece

        norms_in_one_piece(model)

    def learned(self, model: PreTrainedModel, weights: Weights | None) -> Learned:
        """Return what is to be saved."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(
            model, state_dict=weights, adapter_name=ADAPTER, save_embedding_layers=False
        )
        return Learned(model.peft_config[ADAPTER].to_dict(), tensors)

    def save(
        self, model: PreTrainedModel, payload: Path, base_digest: str, weights: Weights | None = None
    ) -> None:
        from safetensors.torch import save_file

        config, tensors = self.learned(model, weights)
        payload.mkdir(parents=True, exist_ok=True)
        written = {name: _alone(tensor) for name, tensor in sorted(tensors.items())}
        save_file(written, payload / WEIGHTS_FILE, metadata={"format": "pt"})
        (payload / CONFIG_FILE).write_text(
            json.dumps(_portable(config, base_digest), indent=2, sort_keys=True) + "\n", "utf-8"
        )
        if self.quantization:
            write_quantization(payload, self.quantization)


def _quantized(name: str, kind: Quantization, base: Base, precision: Precision) -> PreTrainedModel:
    """Return the base with its linear layers quantized. Raises UserError."""
    import torch
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from ft_dagster.training.kept_base import base_kept_or_made, identity_of
    from ft_dagster.training.methods.base import load_base, on_its_device

    sharded, device = is_deepspeed_zero3_enabled(), on_its_device()
    if importlib.util.find_spec("bitsandbytes") is None:
        raise _cannot(name, "needs bitsandbytes, which is not installed here (it exists for Linux only)")
    if sharded and kind == "int8":
        raise _cannot(name, "cannot be sharded by ZeRO-3: int8 weights lie in no floating-point type")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config = quantization_config(kind, dtype, storage=dtype if sharded else None)

    def make() -> PreTrainedModel:
        model = load_base(base.folder, precision, quantization_config=config, **device)
        if not any(hasattr(weight, "quant_state") or hasattr(weight, "SCB") for weight in model.parameters()):
            raise _cannot(name, "found no linear layer of the base model that bitsandbytes can quantize")
        return model

    def load(kept: Path) -> PreTrainedModel:
        model = load_base(kept, precision)
        model.name_or_path = model.config.name_or_path = str(base.folder)
        return model

    pays = kind == "nf4" and not sharded and not device
    kept_in = base.kept_in if pays else None
    asked = identity_of(base.digest, precision) if kept_in else {}
    model = base_kept_or_made(kept_in, asked, make, load)
    settle_quantized(model)
    return model


def _cannot(name: str, why: str) -> UserError:
    return UserError(why, field="method.name", value=name, fix="Use lora")


def _alone(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, in memory of its own, as safetensors asks."""
    import torch

    return tensor.detach().to("cpu", copy=True).contiguous().clone(memory_format=torch.contiguous_format)


def _portable(config: dict[str, Any], base_digest: str) -> dict[str, Any]:
    """Return the configuration without this machine's paths, and with its sets in order."""
    config = {**config, "inference_mode": True}
    config["base_model_name_or_path"] = f"sha256:{base_digest.removeprefix('sha256:')}"
    config.pop("peft_version", None)  # recorded in the manifest; an upgrade must not change the digest
    for name in ("target_modules", "target_parameters", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(name), list | set):
            config[name] = sorted(config[name])
    return config
