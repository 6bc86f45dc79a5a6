"""Merges base plus adapter, file by file: W + scale * BA in float32, written as it is computed, in little
memory.

One file of weights is written for each that the base has, under the same name. A tensor passes a few rows at
a time, and what the adapter leaves alone is copied byte for byte. PEFT's own layers, built without memory,
say what each part of the adapter does. Quantized weights are dequantized a tensor at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.load import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ft_dagster.export.adapter import adapted_without_memory, model_without_memory
from ft_dagster.export.expert_stacks import Stack, StackRows, names_in_class, rows_in_files
from ft_dagster.methods.method import Quantization
from ft_dagster.model_files.tensors import (
    PlannedTensor,
    Stored,
    as_bytes,
    code_of,
    dtype_of,
    read_bytes,
    read_rows,
    read_tensor,
    stored_tensors,
    write_tensors,
)
from ft_dagster.model_files.weights import CONFIG, INDEX, read_json, weight_files
from ft_dagster.models.quantize import dequantized_weight, quantized_weights
from ft_dagster.models.stored import refuse_merged
from ft_dagster.program import write_json
from ft_dagster.strict_json import tagged
from ft_dagster.training.rounding import Rounding

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ELEMENTS = 1 << 20  # of a tensor that are in memory at once, in rows
COPIED = 1 << 24  # bytes
WAY_OUT = "Declare `export: adapter`"
_PREFIX = "base_model.model."
_DOWN, _UP, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
_TOKENS = ".token_adapter.trainable_tokens_delta"
_PLAIN_STARTS = ("gaussian", "orthogonal", "eva")  # others change the base's weights before training


@dataclass(frozen=True)
class LowRank:
    """Adds W + scale * up @ down; with a magnitude (DoRA, arXiv 2402.09353) each output's weights at that
    norm.

    `down` [rank, in], `up` [out, rank], `magnitude` [out]. `transposed`: W lies as [in, out], as in GPT-2.
    """

    down: Stored
    up: Stored
    magnitude: Stored | None
    scale: float
    transposed: bool


@dataclass(frozen=True)
class TokenRows:
    """Puts `values` [rows, width] in place of the rows `ids`."""

    ids: tuple[int, ...]
    values: Stored


@dataclass(frozen=True)
class Whole:
    """Puts `values` in place of the whole weight."""

    values: Stored


Change = LowRank | TokenRows | Whole | Stack | StackRows


@dataclass(frozen=True)
class Merge:
    """Says what becomes of each tensor in the base's files, by the name of the weight of the model it is.

    `adapter`: its file. `weights`: name in the files -> name in the model, one for tied ones. `dtype`: in
    which changed weights are stored; None: each in its own. `quantized`: weights that are dequantized first,
    as loaded in `kind`, and whether each lies as [in, out].
    """

    adapter: Path
    weights: dict[str, str]
    changes: dict[str, Change]
    dtype: torch.dtype | None
    kind: Quantization | None
    quantized: Mapping[str, bool]

    def planned(self, tensor: Stored) -> PlannedTensor:
        """Return the tensor to write; its numbers are computed as it is written. Raises UserError."""
        stored, weight = dtype_of(tensor), self.weights.get(tensor.name)
        change = self.changes.get(weight) if weight else None
        floating = stored is not None and stored.is_floating_point
        changed = change is not None or (floating and self.kind is not None and weight is not None)
        dtype = (self.dtype or stored) if changed else stored
        if not changed or (change is None and weight not in self.quantized and dtype == stored):
            size = tensor.end - tensor.start
            return PlannedTensor(tensor.name, tensor.dtype, tensor.shape, size, read_bytes(tensor, COPIED))
        if not floating or dtype is None:
            raise UserError(
                f"{tensor.name} is stored as {tensor.dtype}, to which nothing can be added",
                file=tensor.file,
                fix=WAY_OUT,
            )
        elements = (tensor.end - tensor.start) // stored.itemsize if stored else 0
        rounding = Rounding(weight or tensor.name, dtype)
        pieces = (as_bytes(rounding(part)) for part in self._sums(tensor, weight, change))
        return PlannedTensor(tensor.name, code_of(dtype), tensor.shape, elements * dtype.itemsize, pieces)

    def _sums(self, tensor: Stored, weight: str | None, change: Change | None) -> Iterator[Tensor]:
        """Yield the merged weight in float32, in parts of whole rows. Raises UserError where it is not
        finite.
        """
        import torch

        parts = self._parts(tensor, weight, change)
        for part in parts if change is None else _changed(parts, change):
            if not torch.isfinite(torch.stack(part.aminmax())).all():
                raise UserError(
                    f"the merged weights are not finite: {tensor.name}",
                    file=self.adapter,
                    fix="Train the variant again with a lower learning_rate",
                )
            yield part

    def _parts(self, tensor: Stored, weight: str | None, change: Change | None) -> Iterator[Tensor]:
        """Yield the weight as the adapter was trained on it, in float32."""
        if isinstance(change, Whole):
            tensor = change.values
        transposed = self.quantized.get(weight or "")
        if self.kind is not None and transposed is not None and not isinstance(change, Whole):
            yield _dequantized(read_tensor(tensor).float(), self.kind, transposed)
            return
        whole = isinstance(change, LowRank) and change.transposed
        parts = [read_tensor(tensor)] if whole else read_rows(tensor, ELEMENTS)
        for part in parts:
            yield part.float()


def merge_weights(base: Path, adapter: Path, target: Path, quantization: Quantization | None = None) -> None:
    """Write config.json and the weights of the base with a LoRA summed into them to the folder `target`.

    Each weight is rounded without bias to the dtype it has once loaded, or to bfloat16 where `quantization`
    says that the weights behind the quantized base are meant. Memory: some ten MB beside the adapter of the
    largest layer; with `quantization` a few times the base's largest layer. Raises UserError.
    """
    import torch

    refuse_merged(base / CONFIG)
    config = _plain_config(base)
    dtype = torch.bfloat16 if quantization else _loaded_dtype(config)
    names = weight_files(base)
    shards = {name: stored_tensors(base / name) for name in names}
    merge = _plan(base, adapter, [t for tensors in shards.values() for t in tensors], dtype, quantization)
    target.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, tensors in shards.items():
        planned = sorted((merge.planned(t) for t in tensors), key=lambda p: -_width(p))
        write_tensors(target / name, planned)
        total += sum(tensor.nbytes for tensor in planned)
    if (base / INDEX).is_file():
        index = read_json(base / INDEX)
        write_json(target / INDEX, {**index, "metadata": {**index.get("metadata", {}), "total_size": total}})
    if quantization is None:
        shutil.copyfile(base / CONFIG, target / CONFIG)
    else:
        config.pop("torch_dtype", None)
        write_json(target / CONFIG, tagged({**config, "dtype": "bfloat16"}))


def _plan(
    base: Path,
    adapter: Path,
    stored: list[Stored],
    dtype: torch.dtype | None,
    quantization: Quantization | None,
) -> Merge:
    """Raises UserError for a part of the adapter that has no place in the base's files."""
    model = model_without_memory(base)
    names = _weight_names(model)
    prefix = f"{model.base_model_prefix}."  # some files leave it out
    called = names_in_class(model, names, [tensor.name for tensor in stored])
    weights = {
        tensor.name: names[name]
        for tensor in stored
        for name in [
            next((n for n in (tensor.name, prefix + tensor.name) if n in names), called[tensor.name])
        ]
        if name in names
    }
    quantized = quantized_weights(model_without_memory(base), quantization) if quantization else {}
    changes = _changes(model, names, base, adapter)
    plain = model_without_memory(base)
    for weight, change in list(changes.items()):
        if isinstance(change, Stack):
            rows, height = rows_in_files(plain, weight, called) or {}, plain.get_parameter(weight).shape[1]
            if rows:
                del changes[weight]
            weights |= {name: name for name in rows}
            changes |= {name: StackRows(change, numbers, height) for name, numbers in rows.items()}
    lost = sorted(changes.keys() - set(weights.values()))
    if lost:
        raise UserError(
            f"the base's files hold no tensor for {lost[0]}, which the adapter changes",
            file=base,
            fix=WAY_OUT,
        )
    return Merge(adapter / ADAPTER_WEIGHTS, weights, changes, dtype, quantization, quantized)


def _weight_names(model: Any) -> dict[str, str]:
    """Return each name of each weight of the model -> the one that stands for it: tied weights have
    several.
    """
    first: dict[int, str] = {}
    return {
        name: first.setdefault(id(weight), name)
        for name, weight in model.named_parameters(remove_duplicate=False)
    }


def _changes(model: Any, names: dict[str, str], base: Path, adapter: Path) -> dict[str, Change]:
    """Return what the adapter does to each weight, by the weight's name. Raises UserError for what cannot be
    summed.
    """
    file = adapter / ADAPTER_WEIGHTS
    tensors = {tensor.name.removeprefix(_PREFIX): tensor for tensor in stored_tensors(file)}
    inner = adapted_without_memory(model, base, adapter).get_base_model()
    changes: dict[str, Change] = {}
    for name, tensor in tensors.items():
        if name.endswith((_UP, _MAGNITUDE)):
            continue
        weight, change = _change(name, tensor, tensors, inner, adapter)
        tied = [other for other, stands in names.items() if stands == names.get(weight)]
        if not tied or (len(tied) > 1 and not isinstance(change, TokenRows)):
            why = f"changes {weight}, whose weights are tied to another layer's" if tied else "is not known"
            raise _unmerged(f"its tensor {name} {why}", file)
        changes[names[weight]] = change
    return changes


def _change(
    name: str, tensor: Stored, tensors: dict[str, Stored], inner: Any, adapter: Path
) -> tuple[str, Change]:
    """Return the weight that a tensor of the adapter changes, and how. Raises UserError."""
    if name.endswith(_TOKENS):
        layer = name.removesuffix(_TOKENS)
        indices = inner.get_submodule(layer).token_adapter.token_indices["default"]
        return f"{layer}.weight", TokenRows(tuple(indices), tensor)
    if not name.endswith(_DOWN):
        return name, Whole(tensor)
    layer = name.removesuffix(_DOWN)
    lora = inner.get_submodule(layer)
    weight = f"{layer.replace('.base_layer', '')}.{getattr(lora, 'parameter_name', 'weight')}"
    if getattr(lora, "num_experts", 1) > 1:
        up, swapped = tensors[layer + _UP], lora._did_swap_in_out_features
        return weight, Stack(tensor, up, lora.scaling["default"], lora.num_experts, swapped)
    start = lora.lora_variant.get("default")
    magnitude = tensors.get(layer + _MAGNITUDE)
    if start is not None and magnitude is None:
        raise _unmerged(f"{layer} is a {type(start).__name__}", adapter / ADAPTER_CONFIG)
    low_rank = LowRank(
        tensor, tensors[layer + _UP], magnitude, lora.scaling["default"], bool(lora.fan_in_fan_out)
    )
    return weight, low_rank


def _changed(parts: Iterator[Tensor], change: Change) -> Iterator[Tensor]:
    """Yield float32 parts in order, each changed in place."""
    if isinstance(change, LowRank):
        yield from _summed(parts, change)
    elif isinstance(change, TokenRows):
        yield from _with_rows(parts, change)
    elif isinstance(change, StackRows):
        yield from change.added(parts)
    else:
        yield from parts


def _summed(parts: Iterator[Tensor], change: LowRank) -> Iterator[Tensor]:
    down, up = read_tensor(change.down).float(), read_tensor(change.up).float()
    magnitude = None if change.magnitude is None else read_tensor(change.magnitude).float()
    first = 0
    for part in parts:
        weights = part.T if change.transposed else part  # [out, in]
        rows = slice(first, first + len(weights))
        weights.addmm_(up[rows], down, alpha=change.scale)
        if magnitude is not None:
            weights.mul_((magnitude[rows] / weights.norm(dim=1)).unsqueeze(1))
        first = rows.stop
        yield part


def _with_rows(parts: Iterator[Tensor], change: TokenRows) -> Iterator[Tensor]:
    values = read_tensor(change.values).float()
    first = 0
    for part in parts:
        for number, id_ in enumerate(change.ids):
            if first <= id_ < first + len(part):
                part[id_ - first] = values[number]
        first += len(part)
        yield part


def _dequantized(weights: Tensor, kind: Quantization, transposed: bool) -> Tensor:
    if not transposed:
        return dequantized_weight(weights, kind)
    return dequantized_weight(weights.T.contiguous(), kind).T.contiguous()


def _plain_config(base: Path) -> dict[str, object]:
    """Return config.json of a base whose files hold plain numbers. Raises UserError."""
    config = read_json(base / CONFIG)
    if config.get("quantization_config"):
        raise UserError(
            "the base is stored quantized, and nothing can be added to such weights",
            file=base / CONFIG,
            field="quantization_config",
            fix=WAY_OUT,
        )
    return config


def _loaded_dtype(config: dict[str, object]) -> torch.dtype | None:
    """Return the dtype in which the base says it is to be loaded, whatever its files hold."""
    import torch

    name = config.get("dtype") or config.get("torch_dtype")
    return getattr(torch, name) if name in ("bfloat16", "float16", "float32") else None


def check_mergeable(config: dict[str, object], adapter: Path) -> None:
    """Raises UserError unless adapter_config.json is that of a LoRA that its base was not changed for."""
    kind, start = config.get("peft_type"), config.get("init_lora_weights")
    if kind != "LORA":
        what = "only a LoRA's weights can be added to those of the base"
        raise _unmerged(what, adapter / ADAPTER_CONFIG, field="peft_type", value=kind)
    if isinstance(start, str) and start not in _PLAIN_STARTS:
        what = "it was trained on weights that its start had changed"
        raise _unmerged(what, adapter / ADAPTER_CONFIG, field="init_lora_weights", value=start)


def _unmerged(problem: str, file: Path, **named: Any) -> UserError:
    return UserError(f"the adapter cannot be merged: {problem}", file=file, **named, fix=WAY_OUT)


def _width(tensor: PlannedTensor) -> int:
    """Return the bytes of one number: wide ones lie first, so that each lies at a multiple of its width."""
    digits = "".join(character for character in tensor.dtype.partition("_")[0] if character.isdigit())
    return int(digits or 8)
