"""Memory of a training by dry run: the real model and step, on tensors without memory. B = bytes, GB = 1e9 B.

A few layers are run and the rest follows linearly, checked by one depth more and by the number of weights; a
model whose layers differ is run whole. The figures are of one process that shards nothing:
`planning.occupancy` spreads them. Not here: what kernels allocate within an operation, the CUDA context.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.errors import UserError
from ft_dagster.planning.architecture import architecture_file, configuration
from ft_dagster.training.contract import Base, Parent
from ft_dagster.training.methods import Precision, method_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ALIKE = 1e-4  # of the whole: how far the third depth may lie from the line through two


@dataclass(frozen=True)
class Step:
    """One training step of one process.

    `trained_positions`: positions of a micro-batch at which some row has a label, where logits are computed.
    `packed`: position_ids say where examples begin, so attention needs a mask. `sharded`: under DeepSpeed,
    which trains weights in `precision` without autocast; gradients, masters, moments are counted elsewhere.
    `device`: whose kernels; a GPU's are stood in for, no GPU is needed.
    """

    rows: int
    length: int
    trained_positions: int
    precision: Precision = "bf16"
    gradient_checkpointing: bool = False
    gradient_accumulation_steps: int = 1
    packed: bool = True
    sharded: bool = False
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class Moment:
    """Bytes that live at the highest moment of a phase of the step, by what they hold.

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
    """What a step holds in each of its phases: forward, head, layer -1 (the last) … layer 0, step.

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
        """Bytes."""
        return self.at_peak.total

    @property
    def phase(self) -> str:
        """In which phase the peak falls."""
        return max(self.moments, key=lambda name: self.moments[name].total)


def footprint(
    model: str | Path,
    method: dict[str, Any],
    step: Step,
    *,
    new_token_ids: tuple[int, ...] = (),
    parent: Parent | None = None,
) -> Footprint:
    """The memory of one `step` of `method` (the plan's) on `model`: a folder with a config.json, such a file,
    or a name of `architecture.shipped`. Raises UserError for what cannot be run; it never guesses.
    """
    _check(step)
    file = architecture_file(model)
    base = Base(folder=file.parent, digest="0" * 64, new_token_ids=new_token_ids, parent=parent)
    settings = json.dumps(method, sort_keys=True)
    return _footprint(str(file), file.read_bytes(), base.model_dump_json(), settings, step)


@lru_cache(maxsize=128)
def _footprint(file: str, _content: bytes, base: str, method: str, step: Step) -> Footprint:
    config, given, settings = configuration(file), Base.model_validate_json(base), json.loads(method)
    try:
        return _extrapolated(config, given, settings, step) or _whole(config, given, settings, step)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"cannot be run on shapes alone ({type(error).__name__}: {str(error).strip()[:160]})",
            file=file,
            field="model_type",
            value=config.model_type,
            fix="Its memory is not foretold: measure a step on the device, or take a dense architecture",
        ) from error


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


def _whole(config: PreTrainedConfig, base: Base, method: dict[str, Any], step: Step) -> Footprint:
    """All layers run."""
    from ft_dagster.planning.rehearsal import numbers, rehearse, shapes

    model = shapes(config, base, method_of(method), step)
    trained, frozen = numbers(model)
    peaks = rehearse(model, step).peaks()
    peaks.pop("before")
    moments = {name: Moment(**kinds) for name, kinds in peaks.items()}
    return Footprint(method["name"], step, moments, trained, frozen, extrapolated=False)


def _extrapolated(
    config: PreTrainedConfig, base: Base, method: dict[str, Any], step: Step
) -> Footprint | None:
    """From the first layers; None where the model has few, or they differ."""
    from ft_dagster.planning.rehearsal import numbers, shapes
    from ft_dagster.training.skeleton import cut

    text = config.get_text_config()
    layers, period = text.num_hidden_layers, _period(getattr(text, "layer_types", None) or [])
    depths = [layers % period + times * period for times in (2, 3, 4)]
    if layers <= depths[-1]:
        return None
    try:
        runs = [_whole(cut(config, depth), base, method, step) for depth in depths]
    except UserError:  # the method names layers that are not among the first
        return None
    ends = [name for name in runs[0].moments if name in runs[1].moments and name in runs[2].moments]
    points = dict(zip(depths, (_values(run, ends) for run in runs), strict=True))
    third, tolerance = points.pop(depths[2]), ALIKE * runs[2].peak
    if any(abs(a - b) > tolerance for a, b in zip(_on_line(points, depths[2]), third, strict=True)):
        return None
    values = _on_line(points, layers)
    if tuple(values[:2]) != numbers(shapes(config, base, method_of(method), step)):
        return None  # layers beyond the first few are of another size
    kinds = len(fields(Moment))
    moments = {name: Moment(*values[2 + kinds * i : 2 + kinds * (i + 1)]) for i, name in enumerate(ends)}
    return Footprint(method["name"], step, moments, values[0], values[1], extrapolated=True)


def _period(kinds: Sequence[str]) -> int:
    """After how many layers their kinds repeat."""
    return next(
        p for p in range(1, len(kinds) + 2) if all(a == b for a, b in zip(kinds, kinds[p:], strict=False))
    )


def _values(run: Footprint, names: list[str]) -> list[int]:
    moments = [run.moments[name] for name in names]
    kinds = [getattr(moment, field.name) for moment in moments for field in fields(Moment)]
    return [run.trained_weights, run.frozen_weights, *kinds]


def _on_line(points: dict[int, list[int]], at: int) -> list[int]:
    """Through the values at two depths, to those at a third."""
    (low, first), (high, second) = points.items()
    return [a + (b - a) * (at - low) // (high - low) for a, b in zip(first, second, strict=True)]
