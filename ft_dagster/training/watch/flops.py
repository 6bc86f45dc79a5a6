"""Counts the FLOPs of a training: by torch on the model's shapes alone, then a polynomial in what was
computed.

Matrix products are counted, forward and backward, as torch's FlopCounterMode does; attention over all pairs
of positions of what attends to itself, an example or a whole row (kernels that skip what comes later do
less). A quantized base counts as its unquantized shape: the products are the same, unpacking is not counted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ft_dagster.errors import UserError
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.training.contract import Base
from ft_dagster.training.methods import taught_by
from ft_dagster.training.skeleton import cut_layers, skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ft_dagster.training.journal import Journal

DEPTHS = (1, 2, 3)  # layers of the models that are counted; the third shows that layers are alike
WIDTH, COLUMNS = 32, 8


@dataclass(frozen=True)
class FlopsModel:
    """Holds FLOPs of forward and backward: per position computed, per squared length of what attends to
    itself, per trained token (the output head), per row (virtual tokens) and per forward pass (DoRA's norms).
    """

    per_token: int
    per_square: int
    per_trained: int
    per_row: int = 0
    per_pass: int = 0

    def of(self, rows: int, width: int, columns: int) -> int:
        """Return the FLOPs of one micro-batch: `rows` of `width` positions, the output head at `columns` of
        them.
        """
        return self.sum(rows * width, rows * width**2, rows * columns, rows, 1)

    def spent(self, journal: Journal) -> int:
        """Return what the journal's steps have cost."""
        return self.sum(journal.slots, journal.squares, journal.labels, journal.rows, journal.micro_batches)

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


def count_flops(base: Base, method: MethodSettings, *, gradient_checkpointing: bool) -> FlopsModel | None:
    """Return the FLOPs model of a training; None where the architecture cannot run on shapes alone (routing
    by values).

    Counts a few layers and extrapolates where they are alike, so it takes seconds for any size.
    `method`: the part of plan.json.
    """
    config = config_file(base).read_text("utf-8")
    return _count(base.model_dump_json(), config, method, gradient_checkpointing)


def config_file(base: Base) -> Path:
    """Return a base's configuration; of a base without weights, what stands for its folder is the file
    itself.
    """
    return base.folder if base.folder.is_file() else base.folder / "config.json"


@lru_cache(maxsize=16)
def _count(base: str, _config: str, method: MethodSettings, checkpointing: bool) -> FlopsModel | None:
    given = Base.model_validate_json(base)
    try:
        return _extrapolated(given, method, checkpointing) or measure(shapes_of(given, method, checkpointing))
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return None


def count_row(
    base: Base,
    method: MethodSettings,
    length: int,
    trained: int,
    *,
    gradient_checkpointing: bool,
    alike: bool = False,
) -> int | None:
    """Return the FLOPs of one row of `length` tokens with `trained` labels: what `count` gives for it, from
    fewer runs.

    For a plan, which asks about one length; None as `count`. `alike`: the caller knows that all layers are.
    """
    config, row = config_file(base).read_text("utf-8"), (length, trained)
    return _count_row(base.model_dump_json(), config, method, gradient_checkpointing, row, alike)


@lru_cache(maxsize=64)
def _count_row(
    base: str, _config: str, method: MethodSettings, checkpointing: bool, row: tuple[int, int], alike: bool
) -> int | None:
    from transformers import AutoConfig

    given = Base.model_validate_json(base)
    layers = getattr(AutoConfig.from_pretrained(given.folder), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > max(DEPTHS) and _alike(given):
        depths = DEPTHS[:2] if alike else DEPTHS
        try:
            one, two, *more = (
                flops(shapes_of(given, method, checkpointing, depth), 1, *row) for depth in depths
            )
        except (RuntimeError, NotImplementedError, TypeError, AttributeError, UserError):
            one = two = 0
            more = []
        each = (two - one) // (DEPTHS[1] - DEPTHS[0])
        if one and all(three - two == each * (DEPTHS[2] - DEPTHS[1]) for three in more):
            return one + (layers - DEPTHS[0]) * each
    counted = _count(base, _config, method, checkpointing)
    return None if counted is None else counted.of(1, *row)


def shapes_of(
    base: Base, method: MethodSettings, checkpointing: bool, layers: int | None = None
) -> PreTrainedModel:
    """Return the model as it trains, its weights fake tensors, cut to its first `layers`. Raises
    UserError.
    """
    import torch
    from transformers import AutoConfig

    from ft_dagster.fake_tensors import make_fake

    config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    with torch.device("meta"):
        model = skeleton(
            config if layers is None else cut_layers(config, layers),
            base,
            taught_by(method),
            attention="eager",
            dtype=torch.float32,
            gradient_checkpointing=checkpointing,
        )
    make_fake(model)
    return model


def measure(model: PreTrainedModel) -> FlopsModel:
    """Measure the polynomial's coefficients, from as many counts."""
    first, second, third = (flops(model, 1, times * WIDTH, COLUMNS) for times in (1, 2, 3))
    per_square = (third - 2 * second + first) // (2 * WIDTH**2)
    per_token = (second - first) // WIDTH - 3 * WIDTH * per_square
    per_trained = (flops(model, 1, WIDTH, 2 * COLUMNS) - first) // COLUMNS
    one_row = flops(model, 2, WIDTH, COLUMNS) - first
    per_row = one_row - per_token * WIDTH - per_square * WIDTH**2 - per_trained * COLUMNS
    return FlopsModel(per_token, per_square, per_trained, per_row, first - one_row)


def flops(model: PreTrainedModel, rows: int, width: int, columns: int) -> int:
    """Count forward and backward of the loss at `columns` positions of each row."""
    import torch

    from ft_dagster.fake_tensors import FakeMode, fake_experts
    from ft_dagster.training.batches.bounds import without_kernels
    from ft_dagster.training.watch.counter import Counter

    with FakeMode(), fake_experts(), without_kernels(model.config), Counter() as counter:
        ids = torch.zeros(rows, width, dtype=torch.long)
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),  # without one, transformers looks at the values of positions
            use_cache=False,
            logits_to_keep=torch.arange(columns),
        ).logits
        logits[:, -columns:].sum().backward()
    return counter.total


def _extrapolated(base: Base, method: MethodSettings, checkpointing: bool) -> FlopsModel | None:
    """Extrapolate from the first layers; None where the model has few, or they differ in cost."""
    from transformers import AutoConfig

    layers = getattr(AutoConfig.from_pretrained(base.folder), "num_hidden_layers", None)
    if not isinstance(layers, int) or layers <= max(DEPTHS) or not _alike(base):
        return None
    try:
        one, two = (astuple(measure(shapes_of(base, method, checkpointing, depth))) for depth in DEPTHS[:2])
        three = flops(shapes_of(base, method, checkpointing, DEPTHS[2]), 1, WIDTH, COLUMNS)
    except UserError:  # the method names layers that are not among the first
        return None
    steps = [b - a for a, b in zip(one, two, strict=True)]

    def at(depth: int) -> FlopsModel:
        return FlopsModel(*(a + (depth - DEPTHS[0]) * step for a, step in zip(one, steps, strict=True)))

    return at(layers) if at(DEPTHS[2]).of(1, WIDTH, COLUMNS) == three else None


def _alike(base: Base) -> bool:
    """Say whether all layers cost the same: eager attention over a window costs what it costs over all."""
    config = json.loads(config_file(base).read_text("utf-8"))
    kinds = {kind.replace("sliding", "full") for kind in config.get("layer_types") or ()}
    return len(kinds) <= 1
