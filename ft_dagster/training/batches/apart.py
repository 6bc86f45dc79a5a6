"""Tests whether packed examples are kept apart: by a base's class with small random weights, and by what
trains.

Attention keeps them apart by their positions. A layer with a state of its own (Mamba, linear attention, ...)
hands on what it has read of the first to the second unless its class sees where one ends, and some classes
make no mask of positions. No list of names says which: of two examples side by side the first is replaced,
and the second tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.methods import method_of
from ft_dagster.model_files.weights import CONFIG
from ft_dagster.models.attention import attention_of
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.provenance.findings import recalled, remembered

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from ft_dagster.spec import VariantSpec
    from ft_dagster.training.batches.attention import Batch

HOW = 2  # raised where it is measured otherwise
MOVED = 1e-5  # logits, which spread by about 1
EXACT, ROUNDED = 1e-4, 0.03  # of the spread of real logits; those that are rounded may differ by their place
LENGTH = 8  # tokens of an example
LOOKED_AT = 4096  # tokens of a mixture
MOST_BYTES = 200_000_000  # of the small model, fp32
VOCABULARY = 256
KERNELS = ("causal-conv1d", "flash-linear-attention", "mamba-ssm")  # distributions, of layers with a state
NARROWEST, STEP = 64, 8  # a number below is no width; widths of kernels come in such steps
WIDTHS = ("size", "dim", "rank", "d_model", "embd", "width", "d_ssm", "inner")  # parts of a width's name
NO_WIDTHS = ("window", "kernel", "patch", "head_dim", "headdim", "d_head", "chunk", "block", "group", "vocab")
DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "num_blocks",
    "depth",
)  # of what is inside a base beside its language model


def leak_of(config_file: Path, cache: Path | None) -> str | None:
    """Return why packed examples of a base cannot be kept apart, in words; None where they can.
    `config_file`: its config.json. Measured once for each content of it and version of transformers.
    """

    def find() -> str | None:
        from transformers import AutoConfig

        return measured_leak(AutoConfig.from_pretrained(config_file, trust_remote_code=False))

    return remembered(cache, _question(sha256_file(config_file)), find)


def known_leak(config: str, cache: Path) -> str | None:
    """Return `leak_of` a config.json by its sha256, where it was measured on this host before; else None, as
    where transformers, of whose version an answer is, is not installed.
    """
    try:
        found: str | None = recalled(cache, _question(config))
    except PackageNotFoundError:
        return None
    return found


def _question(config: str) -> dict[str, object]:
    question: dict[str, object] = {"apart": HOW, "config": config}
    question["transformers"] = _installed("transformers")
    kernels = {name: found for name in KERNELS if (found := _kernel(name))}
    return {**question, "kernels": kernels} if kernels else question


@cache
def _kernel(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


@cache
def _installed(library: str) -> str:
    """Return a library's version, which stays as long as this process has it imported or not."""
    return version(library)


def measured_leak(config: PreTrainedConfig) -> str | None:
    """Measure `leak_of` a configuration on layers of its class: the first that have every kind among them, or
    else all; with one attention head or else more, and widths in proportion. Kernels that are installed, and
    read where an example ends, are told.
    """
    import torch

    from ft_dagster.training.batches.bounds import reads_bounds
    from ft_dagster.training.skeleton import quiet

    heads, why = _heads(config), ""
    shares = [count / heads for count in range(1, heads + 1) if heads % count == 0]
    with quiet(), torch.random.fork_rng(devices=()):
        for share, cut in product(shares, (True, False)):
            try:
                moved = _moved(_drawn(_small(config, share, cut=cut)))
            except Exception as error:  # whatever a class raises on sizes that nobody gave it before
                why = why or f"{type(error).__name__}: {error}".splitlines()[0][:160]
                continue
            if moved < MOVED:
                return None
            return (
                f"with another first one of two packed examples the logits of the second moved by {moved:.2g}"
            )
    if reads_bounds(config):
        return None  # kernels that run on a GPU alone: a training measures it on its own weights
    return f"no small model of its class could be made to see whether packed examples are kept apart ({why})"


def _heads(config: PreTrainedConfig) -> int:
    """Return the heads of its attention; of a class that has none, or others in each layer, as many parts of
    a width.
    """
    with suppress(AttributeError, ValueError):
        heads = config.get_text_config().num_attention_heads
        if isinstance(heads, int) and heads > 0:
            return heads
    return NARROWEST


def refuse_leaking(trainer: Any, *, exact: bool) -> None:
    """Raises UserError where packed examples of a TokenTrainer's model reach each other on its device. One
    forward pass, of tokens that the training has. `exact`: weights and products are in fp32.
    """
    import numpy as np
    import torch

    distinct = np.unique(trainer.data_collator.examples.tokens[:LOOKED_AT])
    drawn = np.random.RandomState(0).choice(distinct, (3, LENGTH)).astype(np.int64)
    batch = trainer._prepare_inputs(side_by_side(*torch.from_numpy(drawn)))
    was_training = trainer.model.training
    trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        one, other = logits_of_second(trainer.model, batch)
    trainer.model.train(was_training)
    spread = (one - one.mean(-1, keepdim=True)).square().mean().sqrt()
    moved = ((one - other).square().mean().sqrt() / spread).item()
    if moved > (EXACT if exact else ROUNDED):
        raise UserError(
            "packed examples of this base reach each other here, though not on its class' small model: with "
            f"another first one the logits of the second moved by {moved:.1%} of their spread",
            field="training.packing",
            value=True,
            fix="Declare `training.packing: false`",
        )


def side_by_side(first: Tensor, other: Tensor, second: Tensor) -> Batch:
    """Return two rows of two packed examples, [tokens] each, as a Collator gives them: they differ in the
    first.
    """
    import torch

    from ft_dagster.training.batches.attention import ENDS, LENGTHS, ends_of

    count = len(second)
    ids = torch.stack([torch.cat([first, second]), torch.cat([other, second])])
    lengths = [[count, count]] * 2
    return {
        "input_ids": ids,
        "position_ids": torch.arange(count).repeat(2).repeat(2, 1),
        ENDS: torch.tensor(ends_of(lengths, 2 * count), dtype=torch.int32),
        LENGTHS: lengths,
    }


def logits_of_second(model: Any, batch: Batch) -> Tensor:
    """Return the logits of the second example in both rows of `side_by_side`: [2, tokens, vocabulary],
    fp32.
    """
    from ft_dagster.training.batches.attention import given, packed

    rows, width = batch["input_ids"].shape
    with packed(model, batch):
        inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
        logits: Tensor = model(**inputs, use_cache=False, **given(batch)).logits
    return logits.view(rows, width, -1)[:, width // 2 :].float()


def _moved(model: PreTrainedModel) -> float:
    """Return by how much logits moved; infinity where one is not finite."""
    import torch

    generator = torch.Generator().manual_seed(1)
    rows = model.get_input_embeddings().weight.shape[0]
    examples = torch.randint(3, rows, (3, LENGTH), generator=generator)
    with torch.no_grad():
        one, other = logits_of_second(model, side_by_side(*examples))
    moved = (one - other).abs().max().item()
    return moved if math.isfinite(moved) else math.inf


def _drawn(config: PreTrainedConfig) -> PreTrainedModel:
    """Make a model with random weights in fp32, whose products are about as large as what goes in."""
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, attn_implementation=attention_of(config), dtype=torch.float32
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, weight.shape[-1] ** -0.5)
    return model.eval()


def _small(config: PreTrainedConfig, share: float, *, cut: bool) -> PreTrainedConfig:
    """Return a configuration of the same class with so large a share of its heads and widths. Raises
    ValueError for a model that is too large, and what the class raises.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from ft_dagster.training.skeleton import cut_layers, kinds_of_layers

    small = _narrowed(config, share)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(small, attn_implementation=attention_of(small))
        if cut:
            kinds = kinds_of_layers(model)
            named = getattr(small.get_text_config(), "layer_types", None) or kinds
            kinds = [*zip(kinds, named, strict=False)]
            small = cut_layers(small, max(map(kinds.index, kinds)) + 1) if kinds else small
            model = AutoModelForCausalLM.from_config(small, attn_implementation=attention_of(small))
    if (size := 4 * sum(weight.numel() for weight in model.parameters())) > MOST_BYTES:
        raise ValueError(f"it has {size / 1e6:,.0f} MB, above {MOST_BYTES / 1e6:,.0f}")
    return small


def _narrowed(config: PreTrainedConfig, share: float) -> PreTrainedConfig:
    content, inner = config.to_dict(), config.get_text_config()
    text = next((name for name, part in vars(config).items() if part is inner), None)
    if text is None:
        content = _scaled(content, share)
    else:
        content[text] = _scaled(content[text], share)
    for name, part in content.items():
        if isinstance(part, dict) and name != text:
            part.update({depth: 1 for depth in DEPTHS if depth in part})
    return type(config).from_dict(content)


def _scaled(content: Mapping[str, Any], share: float) -> dict[str, object]:
    """Return the configuration with fewer heads, narrower widths and a small vocabulary."""
    return {name: _scaled_value(name, value, share) for name, value in content.items()}


def _scaled_value(name: str, value: Any, share: float) -> Any:
    if isinstance(value, list) and value and all(type(each) is int for each in value):
        return [_scaled_value(name, each, share) for each in value]
    if type(value) is not int:
        return value
    if "vocab_size" in name:
        return min(value, VOCABULARY)
    if name.endswith("token_id"):
        return min(value, VOCABULARY - 1)
    if name.endswith("heads"):
        return max(1, int(value * share))
    if value >= NARROWEST and any(w in name for w in WIDTHS) and not any(n in name for n in NO_WIDTHS):
        return max(STEP, int(value * share) // STEP * STEP)
    return value


def leak_where_packed(spec: VariantSpec, base: Path, cache: Path) -> str | None:
    """Say why packed examples of a base, a model folder, reach each other; None where they do not, or where
    the declaration lets none be packed.
    """
    may_pack = spec.training.packing and (spec.method.name == "auto" or method_of(spec.method.name).packs)
    return leak_of(base / CONFIG, cache) if may_pack else None
