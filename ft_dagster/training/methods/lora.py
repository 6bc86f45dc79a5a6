"""LoRA through PEFT: low-rank updates in fp32 over a frozen base; rsLoRA and DoRA are settings."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.training.contract import Base, Strict
from ft_dagster.training.methods import Method, Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ft_dagster.training.methods import Weights


class LoraSettings(Strict):
    """The `method` part of plan.json."""

    name: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


class Lora(Method):
    def __init__(self, settings: dict[str, Any]) -> None:
        try:
            self.settings = LoraSettings.model_validate(settings)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(("method", *map(str, first["loc"])))
            raise UserError(
                str(first["msg"]),
                field=field,
                value=first["input"],
                fix=f"Settings of lora: {', '.join(LoraSettings.model_fields)}",
            ) from None

    def build(self, base: Base, precision: Precision, seed: int) -> PreTrainedModel:
        from peft import LoraConfig, get_peft_model
        from transformers import set_seed

        from ft_dagster.training.methods.base import load_base

        model = load_base(base.folder, precision)
        chosen = self._targets(model)
        self._check_rank(chosen)
        targets = self.settings.target_modules
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,
            lora_dropout=self.settings.dropout,
            target_modules=targets if isinstance(targets, str) else sorted(targets),
            use_rslora=self.settings.use_rslora,
            use_dora=self.settings.use_dora,
            bias="none",
        )
        set_seed(seed)  # A is drawn at random
        return get_peft_model(model, config)

    def save(
        self, model: PreTrainedModel, payload: Path, base_digest: str, weights: Weights | None = None
    ) -> None:
        payload.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=payload.parent) as folder:
            model.save_pretrained(folder, state_dict=weights)
            (Path(folder) / "adapter_model.safetensors").replace(payload / "adapter_model.safetensors")
            config = json.loads((Path(folder) / "adapter_config.json").read_text("utf-8"))
        (payload / "adapter_config.json").write_text(
            json.dumps(_portable(config, base_digest), indent=2, sort_keys=True) + "\n", "utf-8"
        )

    def _targets(self, model: PreTrainedModel) -> dict[str, Any]:
        """The linear layers that get an update, by name; every declared name must match one."""
        linear = _linear_layers(model)
        if self.settings.target_modules == "all-linear":
            return linear
        chosen: dict[str, Any] = {}
        for target in self.settings.target_modules:
            matched = {n: m for n, m in linear.items() if n == target or n.endswith(f".{target}")}
            if not matched:
                known = sorted({name.rsplit(".", 1)[-1] for name in linear})
                raise UserError(
                    "matches no linear layer of this base model",
                    field="method.target_modules",
                    value=target,
                    fix=f"Its linear layers: {', '.join(known)}",
                )
            chosen.update(matched)
        return chosen

    def _check_rank(self, chosen: dict[str, Any]) -> None:
        smallest, name = min((min(_sizes(layer)), name) for name, layer in chosen.items())
        if self.settings.rank > smallest:
            raise UserError(
                f"is above the smallest dimension of the layers it updates, {smallest} of {name}",
                field="method.rank",
                value=self.settings.rank,
                fix=f"Use at most {smallest}",
            )


def _linear_layers(model: PreTrainedModel) -> dict[str, Any]:
    """By name, without the output head: its adapter would never be trained by the trained-positions loss."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (Linear, Conv1D)) and module is not head
    }
    if not found:
        raise UserError(
            "the base model has no linear layers that LoRA can update",
            field="method.name",
            value="lora",
            fix="Use full",
        )
    return found


def _sizes(layer: Any) -> tuple[int, int]:
    """(in, out); quantized weights are stored in another shape, so the layer's own word comes first."""
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    return layer.weight.shape[0], layer.weight.shape[1]


def _portable(config: dict[str, Any], base_digest: str) -> dict[str, Any]:
    """The configuration without this machine's paths, and with its sets in order."""
    config["base_model_name_or_path"] = f"sha256:{base_digest.removeprefix('sha256:')}"
    config.pop("peft_version", None)  # recorded in the manifest; an upgrade must not change the digest
    for name in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    return config
