"""FLOPs of a training: counted by torch on the model's shapes alone, then a polynomial in what was computed.

Matrix products are counted, forward and backward, as torch's FlopCounterMode does; attention over the
whole width of a row, as eager attention computes it (kernels that skip what the mask hides do less). A
quantized base counts as its unquantized shape: the products are the same, unpacking is not counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.training.contract import Base

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ft_dagster.training.journal import Journal

DEPTHS = (2, 3, 4)  # layers of the models that are counted; the third shows that layers are alike
WIDTH, COLUMNS = 32, 8


@dataclass(frozen=True)
class FlopsModel:
    """FLOPs of forward and backward: per position computed, per squared width of a row, per trained token
    (the output head), per row (virtual tokens) and per forward pass (DoRA's norms).
    """

    per_token: int
    per_square: int
    per_trained: int
    per_row: int = 0
    per_pass: int = 0

    def of(self, rows: int, width: int, columns: int) -> int:
        """One micro-batch: `rows` of `width` positions, the output head at `columns` of them."""
        return self.sum(rows * width, rows * width**2, rows * columns, rows, 1)

    def spent(self, journal: Journal) -> int:
        """What the journal's steps have cost."""
        return self.sum(
            journal.slots, journal.squares, journal.trained_tokens, journal.rows, journal.micro_batches
        )

    def sum(self, slots: int, squares: int, trained_tokens: int, rows: int, micro_batches: int) -> int:
        return (
            self.per_token * slots
            + self.per_square * squares
            + self.per_trained * trained_tokens
            + self.per_row * rows
            + self.per_pass * micro_batches
        )

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def count(base: Base, method: dict[str, Any], *, gradient_checkpointing: bool) -> FlopsModel | None:
    """The model of a training; None where the architecture cannot run on shapes alone (routing by values).

    Counts a few layers and extrapolates where they are alike, so it takes seconds for any size.
    `method`: the part of plan.json.
    """
    config = (base.folder / "config.json").read_text("utf-8")
    return _count(base.model_dump_json(), config, json.dumps(method, sort_keys=True), gradient_checkpointing)


@lru_cache(maxsize=16)
def _count(base: str, _config: str, method: str, checkpointing: bool) -> FlopsModel | None:
    given, settings = Base.model_validate_json(base), json.loads(method)
    try:
        return _extrapolated(given, settings, checkpointing) or measure(
            shapes_of(given, settings, checkpointing)
        )
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return None


def shapes_of(
    base: Base, method: dict[str, Any], checkpointing: bool, layers: int | None = None
) -> PreTrainedModel:
    """The model as it trains, its weights on no device, cut to its first `layers`. Raises UserError."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    if layers is not None:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    with _unsharded(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        model = _wrapped(model, base, method)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if hasattr(model, "peft_config"):
            model.enable_input_require_grads()  # as TRL does
    return model.train()


def measure(model: PreTrainedModel) -> FlopsModel:
    """The polynomial's coefficients, from as many counts."""
    first, second, third = (flops(model, 1, times * WIDTH, COLUMNS) for times in (1, 2, 3))
    per_square = (third - 2 * second + first) // (2 * WIDTH**2)
    per_token = (second - first) // WIDTH - 3 * WIDTH * per_square
    per_trained = (flops(model, 1, WIDTH, 2 * COLUMNS) - first) // COLUMNS
    one_row = flops(model, 2, WIDTH, COLUMNS) - first
    per_row = one_row - per_token * WIDTH - per_square * WIDTH**2 - per_trained * COLUMNS
    return FlopsModel(per_token, per_square, per_trained, per_row, first - one_row)


def flops(model: PreTrainedModel, rows: int, width: int, columns: int) -> int:
    """Counted: forward and backward of the loss at `columns` positions of each row."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.zeros(rows, width, dtype=torch.long, device=model.device)
    with FlopCounterMode(display=False) as counter:
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),  # without one, transformers looks at the values of positions
            use_cache=False,
            logits_to_keep=torch.arange(columns, device=model.device),
        ).logits
        logits[:, -columns:].sum().backward()
    counted: int = counter.get_total_flops()
    return counted


def _extrapolated(base: Base, method: dict[str, Any], checkpointing: bool) -> FlopsModel | None:
    """From the first layers; None where the model has few, or they differ in cost."""
    from transformers import AutoConfig

    layers = getattr(AutoConfig.from_pretrained(base.folder), "num_hidden_layers", None)
    if not isinstance(layers, int) or layers <= max(DEPTHS) or not _alike(base):
        return None
    try:
        two, three = (astuple(measure(shapes_of(base, method, checkpointing, depth))) for depth in DEPTHS[:2])
        four = flops(shapes_of(base, method, checkpointing, DEPTHS[2]), 1, WIDTH, COLUMNS)
    except UserError:  # the method names layers that are not among the first
        return None
    steps = [b - a for a, b in zip(two, three, strict=True)]

    def at(depth: int) -> FlopsModel:
        return FlopsModel(*(a + (depth - DEPTHS[0]) * step for a, step in zip(two, steps, strict=True)))

    return at(layers) if at(DEPTHS[2]).of(1, WIDTH, COLUMNS) == four else None


@contextmanager
def _unsharded() -> Iterator[None]:
    """Where a training is sharded, transformers would spread these shapes over the ranks as well."""
    from transformers.integrations import deepspeed

    kept, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


def _alike(base: Base) -> bool:
    """Whether all layers cost the same: eager attention over a window costs what it costs over all."""
    config = json.loads((base.folder / "config.json").read_text("utf-8"))
    kinds = {kind.replace("sliding", "full") for kind in config.get("layer_types") or ()}
    return len(kinds) <= 1


def _wrapped(model: Any, base: Base, method: dict[str, Any]) -> Any:
    """With what the method adds, and what stays beneath it."""
    from peft import PeftConfig, get_peft_model

    from ft_dagster.training.methods import method_of
    from ft_dagster.training.methods.adapter import ADAPTER, Adapter
    from ft_dagster.training.methods.stacking import PARENT

    chosen = method_of(method)
    if not isinstance(chosen, Adapter):
        return model
    model = get_peft_model(model, chosen.configure(model, base))
    if base.parent:
        model.add_adapter(PARENT, PeftConfig.from_pretrained(str(base.parent.adapter)))
        model.base_model.set_adapter([ADAPTER, PARENT])
        model.set_requires_grad(PARENT, False)
    return model
