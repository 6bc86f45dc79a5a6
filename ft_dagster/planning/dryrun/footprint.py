"""Predicts the memory of a training by dry run: the real model and step, on tensors without memory. B =
bytes, GB = 1e9 B.

A few layers are run and the rest follows linearly, where the whole model's layers are found to be alike or to
repeat; a model whose layers differ is run whole. The figures are of one process that shards nothing:
`occupancy.py` spreads them. Not here: what kernels allocate within an operation, the CUDA context.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.methods import method_of
from ft_dagster.methods.full import FullSettings
from ft_dagster.methods.layers import LayerSettings
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.planning.dryrun.architecture import architecture_file, configuration
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.training.contract import Base, ParentAdapter
from ft_dagster.training.methods import taught_by

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FULL = FullSettings()  # adds nothing to the base
Key = tuple[str, bytes, str, MethodSettings, Step]

kept: dict[Key, Footprint] = {}  # what was run; copies of this process hand theirs back


@dataclass(frozen=True)
class Moment:
    """Counts the bytes that live at the highest moment of a phase of the step, by what they hold.

    activations: kept from the forward for the backward pass, autocast's copies of trained weights among them.
    temporaries: all else, such as a layer recomputed, logits' gradients, or the optimizer's workspace.
    """

    frozen: int
    trained: int
    gradients: int
    states: int
    activations: int
    temporaries: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Footprint:
    """Holds what a step takes in each of its phases: forward, head, layer -1 (the last) … layer 0, step.

    `trained_weights`, `frozen_weights`: how many, a quantized one counted as one. `extrapolated`: from a few
    layers.
    """

    method: str
    step: Step
    moments: dict[str, Moment]
    trained_weights: int
    frozen_weights: int
    extrapolated: bool

    @property
    def at_peak(self) -> Moment:
        return max(self.moments.values(), key=lambda moment: moment.total)

    @property
    def peak(self) -> int:
        """Return the bytes at the peak."""
        return self.at_peak.total

    @property
    def phase(self) -> str:
        """Return the phase in which the peak falls."""
        return max(self.moments, key=lambda name: self.moments[name].total)


def footprint(
    model: str | Path,
    method: MethodSettings,
    step: Step,
    *,
    new_token_ids: tuple[int, ...] = (),
    parent: ParentAdapter | None = None,
) -> Footprint:
    """Return the memory of one `step` of `method` (the plan's) on `model`: a folder with a config.json, such
    a file, or a name of `architecture.shipped`. Raises UserError for what cannot be run; it never guesses.
    """
    _check(step)
    key = *_read(model, method, new_token_ids, parent), step
    if key not in kept:
        kept[key] = _footprint(*key)
    return kept[key]


def alike(
    model: str | Path,
    method: MethodSettings,
    *,
    new_token_ids: tuple[int, ...] = (),
    parent: ParentAdapter | None = None,
) -> bool:
    """Say whether all layers are alike, as they train. Raises UserError as `footprint`."""
    return kinds_of(*_read(model, method, new_token_ids, parent))[1] == 1


def _read(
    model: str | Path, method: MethodSettings, new_token_ids: tuple[int, ...], parent: ParentAdapter | None
) -> tuple[str, bytes, str, MethodSettings]:
    file = architecture_file(model)
    base = Base(folder=file.parent, digest="0" * 64, new_token_ids=new_token_ids, parent=parent)
    return str(file), file.read_bytes(), base.model_dump_json(), method


def _footprint(file: str, content: bytes, base: str, method: MethodSettings, step: Step) -> Footprint:
    config, given = configuration(file), Base.model_validate_json(base)
    try:
        kinds = kinds_of(file, content, base, method)
        return _extrapolated(config, given, method, step, kinds) or _whole(config, given, method, step)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError) as error:
        _refuse_layers(method, error)
        raise UserError(
            f"cannot be run on shapes alone ({type(error).__name__}: {str(error).strip()[:160]})",
            file=file,
            field="model_type",
            value=config.model_type,
            fix="Its memory is not predicted: measure a step on the device, or take a dense architecture",
        ) from error


def _refuse_layers(method: MethodSettings, error: Exception) -> None:
    """Raises UserError where PEFT refuses a layer of the base: one whose weight its kernels read past an
    adapter.
    """
    refused = re.search(r"Module '(\w+)' is incompatible", str(error))
    if refused and isinstance(method, LayerSettings):
        raise UserError(
            f"PEFT puts no adapter on {refused[1]} of this base, whose kernels read its weight past one",
            field="method.target_modules",
            value=method.target_modules,
            fix=f"Name the layers that are to be trained, without {refused[1]}",
        ) from error


def unquantized(method: MethodSettings) -> MethodSettings:
    """Return the same update over a base that is not quantized: the same layers and products."""
    quantized = method_of(method.name).quantized
    if quantized is None:
        return method
    plain = method_of(quantized.plain)
    own = {name: getattr(method, name) for name in plain.settings.model_fields}
    return plain.settings.model_validate({**own, "name": plain.name})


def _check(step: Step) -> None:
    for name in ("rows", "length", "trained_positions", "gradient_accumulation_steps"):
        value = getattr(step, name)
        if value < 1:
            raise UserError("is below 1", field=name, value=value, fix="Give at least 1")
    if step.trained_positions >= step.length:
        raise UserError(
            f"the first of {step.length} positions is predicted by none",
            field="trained_positions",
            value=step.trained_positions,
            fix=f"At most {step.length - 1}",
        )


def _whole(config: PreTrainedConfig, base: Base, method: MethodSettings, step: Step) -> Footprint:
    """Run all layers."""
    from ft_dagster.planning.dryrun.training_step import numbers, record_step, shapes

    model = shapes(config, base, taught_by(method), step)
    trained, frozen = numbers(model)
    peaks = record_step(model, step).peaks()
    peaks.pop("before")
    moments = {name: Moment(**kinds) for name, kinds in peaks.items()}
    return Footprint(method.name, step, moments, trained, frozen, extrapolated=False)


def _picks_layers(base: Base, method: MethodSettings) -> bool:
    """Say whether layers that are alike may be taught differently: where some are named by their number."""
    targets = method.target_modules if isinstance(method, LayerSettings) else ()
    names = (targets,) if isinstance(targets, str) else targets
    return base.parent is not None or any(part.isdigit() for name in names for part in name.split("."))


def kinds_of(file: str, content: bytes, base: str, method: MethodSettings) -> tuple[int, int]:
    """Return how many layers the whole model has, and after how many their kinds repeat."""
    picks = _picks_layers(Base.model_validate_json(base), method)
    return _kinds_of(file, content, base, method if picks else FULL)


@lru_cache(maxsize=32)
def _kinds_of(file: str, _content: bytes, base: str, method: MethodSettings) -> tuple[int, int]:
    from ft_dagster.planning.dryrun.training_step import shapes
    from ft_dagster.training.skeleton import kinds_of_layers

    step, given = Step(rows=1, length=2, trained_positions=1), Base.model_validate_json(base)
    kinds = kinds_of_layers(shapes(configuration(file), given, taught_by(unquantized(method)), step))
    return len(kinds), _period(kinds)


def _extrapolated(
    config: PreTrainedConfig, base: Base, method: MethodSettings, step: Step, kinds: tuple[int, int]
) -> Footprint | None:
    """Extrapolate from the first layers; None where the model has few, or they differ."""
    from ft_dagster.training.skeleton import cut_layers

    layers, period = kinds
    low, high = (layers % period + times * period for times in (2, 3))
    if layers <= high:
        return None
    first, second = (_whole(cut_layers(config, depth), base, method, step) for depth in (low, high))
    times = (layers - low) // period
    moments = {
        name: _on_line(moment, second.moments[name], times)
        for name, moment in first.moments.items()
        if name in second.moments
    }
    trained = first.trained_weights + (second.trained_weights - first.trained_weights) * times
    frozen = first.frozen_weights + (second.frozen_weights - first.frozen_weights) * times
    return Footprint(method.name, step, moments, trained, frozen, extrapolated=True)


def _period(kinds: Sequence[Any]) -> int:
    """Return after how many layers their kinds repeat."""
    return next(
        p for p in range(1, len(kinds) + 2) if all(a == b for a, b in zip(kinds, kinds[p:], strict=False))
    )


def _on_line(first: Moment, second: Moment, times: int) -> Moment:
    """Return the moment so many times as far from `first` as `second` is."""
    ends = zip(astuple(first), astuple(second), strict=True)
    return Moment(*(a + (b - a) * times for a, b in ends))
