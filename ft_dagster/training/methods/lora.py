"""Trains LoRA through PEFT: low-rank updates in fp32 over a frozen base; rsLoRA and DoRA are settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.methods.layers import ALL, Targets
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.training.contract import Base, ParentAdapter
from ft_dagster.training.methods import Precision
from ft_dagster.training.methods.adapter import Adapter, Learned
from ft_dagster.training.methods.experts import tensors_of
from ft_dagster.training.methods.stacking import check_parent, concatenated_adapters, put_beneath
from ft_dagster.training.methods.starts import add_start, check_start, fill_start, without_start

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ft_dagster.training.methods import Weights


class Lora(Adapter):
    """Trains low-rank updates beside the linear layers of a frozen base."""

    def __init__(self, settings: LoraSettings) -> None:
        super().__init__(settings)
        self.settings = settings
        self.parent: ParentAdapter | None = None

    def check(self, base: Base) -> None:
        from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

        start, divided = self.settings.init_lora_weights, is_deepspeed_zero3_enabled()
        check_start(start, stacked=base.parent is not None, divided=divided)
        if base.parent:
            check_parent(base.parent, self.settings)

    def build(self, base: Base, precision: Precision, seed: int) -> PreTrainedModel:
        model = super().build(base, precision, seed)
        self.parent = base.parent
        if base.parent:
            put_beneath(model, base.parent)
        if self.settings.starts_beneath:
            fill_start(model, self.settings.init_lora_weights)
        return model

    def configure(self, model: PreTrainedModel, base: Base) -> Any:
        from peft import LoraConfig

        settings, tensors = self.settings, self.settings.target_parameters
        targets = settings.target_modules if tensors is None else self._beside(model)
        self._check_rank(self._targets(model, targets))
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets if isinstance(targets, str) else sorted(targets),
            target_parameters=None if tensors is None else sorted(tensors),
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            bias="none",
            init_lora_weights=self._drawn(),
            trainable_token_indices=_token_rows(model, base.new_token_ids),
        )

    def settle(self, model: PreTrainedModel) -> None:
        from ft_dagster.training.methods.low_rank import in_one_piece

        super().settle(model)
        in_one_piece(model)
        if self.settings.starts_beneath:
            add_start(model)

    def learned(self, model: PreTrainedModel, weights: Weights | None) -> Learned:
        learned = super().learned(model, weights)
        learned.config["init_lora_weights"] = True  # of what is loaded nothing is drawn
        if self.settings.starts_beneath:
            return without_start(model, learned)
        return concatenated_adapters(self.parent, learned) if self.parent else learned

    def _drawn(self) -> Any:
        """Return how PEFT draws A and B: what begins at the base is filled in later."""
        start = self.settings.init_lora_weights
        return True if start == "default" or self.settings.starts_beneath else start

    def _beside(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the last names of the layers that get an update where tensors do: of all, those that are no
        gate, and that PEFT updates as layers.
        """
        targets = self.settings.target_modules
        if not isinstance(targets, str):
            return targets
        names, there = {name.rsplit(".", 1)[-1] for name in self._linear_layers(model)}, tensors_of(model)
        return tuple(names - set(there.gates) - set(there.layers(names)))

    def _targets(self, model: PreTrainedModel, targets: Targets) -> dict[str, object]:
        """Return the linear layers that get an update, by name; every declared name must match one."""
        linear = self._linear_layers(model)
        if targets == ALL:
            return linear
        chosen: dict[str, object] = {}
        for target in targets:
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

    def _linear_layers(self, model: PreTrainedModel) -> dict[str, object]:
        """Return the linear layers by name, without the output head: the trained-positions loss would never
        train its adapter.
        """
        from torch.nn import Linear
        from transformers.pytorch_utils import Conv1D

        head = model.get_output_embeddings()
        found = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, Linear | Conv1D) and module is not head
        }
        if not found:
            raise UserError(
                "the base model has no linear layers that LoRA can update",
                field="method.name",
                value=self.name,
                fix="Use full",
            )
        return found

    def _check_rank(self, chosen: dict[str, object]) -> None:
        if not chosen:
            return
        smallest, name = min((min(_sizes(layer)), name) for name, layer in chosen.items())
        if self.settings.rank > smallest:
            raise UserError(
                f"is above the smallest dimension of the layers it updates, {smallest} of {name}",
                field="method.rank",
                value=self.settings.rank,
                fix=f"Use at most {smallest}",
            )


def _sizes(layer: Any) -> tuple[int, int]:
    """Return (in, out); quantized weights are stored in another shape, so the layer's own word comes
    first.
    """
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    return layer.weight.shape[0], layer.weight.shape[1]


def _token_rows(model: PreTrainedModel, new: tuple[int, ...]) -> dict[str, list[int]] | None:
    """Return the rows to train of the input embeddings, and of the output head where that has rows of its
    own.
    """
    if not new:
        return None
    layers = [model.get_input_embeddings()]
    if not model.config.tie_word_embeddings:  # by the same word PEFT ties a head to the rows of the input
        layers.append(model.get_output_embeddings())
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(layer)]: sorted(new) for layer in layers}
