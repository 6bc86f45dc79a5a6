"""Defines the figures of a training: what result.json reports, and the manifest of its fine_tuned_model
holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ft_dagster.strict_json import NOT_FINITE

if TYPE_CHECKING:
    from ft_dagster.store import Artifact

PREDICTED_IN_0_1 = "foretold"
SILENT = {  # left out where they say nothing
    "micro_batch_halved", "learning_rate_lowered", "measured_on", "validation_loss_on",
    "validation_by_example", "measured_tokens", "measuring_flops", "computed_on", "general_loss_limit",
    "expert_matrices", "expert_matrices_moved", "shared_tokens", NOT_FINITE,
}  # fmt: skip


@dataclass(frozen=True)
class TrainingFigures:
    """Holds the figures of a training; losses are means in nats a token; None is what was not measured, or,
    once stored, was not finite.

    Of the whole training, over all resumptions:
    `steps`: optimizer steps; `epochs`: passes over the training split, a fraction where it ended within one.
    `train_loss_first`, `train_loss_last`: of one step's batch.
    `best_step`: the step whose weights are kept. `validation_loss_first` (before the first step),
    `validation_loss_best` (at `best_step`), `validation_loss_last`: None without a validation split.
    `general_holdout_loss_first`, `general_holdout_loss_last` (at `best_step`): None without general text.
    `tokens`, `trained_tokens` (those with a label): consumed, no padding.
    `shared_tokens`: of `tokens`, those in a beginning that was computed for another example.
    `packing_fill`: share of the computed positions that held a token, 0 to 1.
    `training_seconds`: of the optimizer steps alone. `tokens_per_second`: `tokens` over these.
    `flops`: counted by torch, None where an architecture cannot be counted; `flops_estimate`: from parameter
    counts. `resumed_from`: the steps of the checkpoints that it went on from.

    Of the last process: `seconds`: from its start. `peak_memory_bytes`: its largest resident size;
    `imported_bytes`: its size before it held a weight. `peak_device_memory_bytes` (tensors) and
    `peak_device_reserved_bytes` (what CUDA's allocator took for them): None on a CPU.

    Of the model: `method`: its name. `parameters`, `trainable_parameters`: counts.
    `checkpoints_kept`: how many; `checkpoint_weights_bytes`, `checkpoint_optimizer_bytes`: of all on disk.
    `effective_rank`, `spectrum_condition` (largest over smallest singular value): medians over the
    adapter's updates, None without an adapter. `benchmark_*`: mean accuracy of the general questions, 0 to 1.
    `repeated_4grams_*`, `empty_answers_*`: shares of generated text, 0 to 1. `_first`: before the first step;
    `_last`: at `best_step`. `measured_on`: figure -> on what it was measured, and when. `validation_loss_on`:
    number of examples -> the loss at `best_step` on the first so many of the sample. `validation_by_example`:
    (summed loss, trained tokens) of each of them at `best_step`, where that is asked for. `measured_tokens`,
    `measuring_flops`: of looks made for this training, none that was kept; the latter None where
    an architecture cannot be counted.
    `expert_matrices`: those that the adapter is to update, by layer, tensor and expert; None where it updates
    none; `expert_matrices_moved`: those of them that the training changed.
    `computed_on`: whose arithmetic it was, the GPU or what of a CPU torch uses; empty of older ones.
    `stopped`: why it ended early, in a word; `stop_reason`: in a sentence. `general_loss_limit`: the
    declared rise of the loss on general text, at most. `advice`: lines for a person.
    `micro_batch_halved`: after memory ran out. `learning_rate_lowered`: to what, where the first steps said
    that the planned one is too high. `predicted`: what its plan foresaw, see
    `planning.cost.learned.Predicted`. `not_finite`: field -> "inf", "-inf" or "nan", for what is None here.
    """

    steps: int
    epochs: float
    train_loss_first: float | None
    train_loss_last: float | None
    best_step: int
    tokens: int
    trained_tokens: int
    packing_fill: float
    training_seconds: float
    seconds: float
    peak_memory_bytes: int
    parameters: int
    trainable_parameters: int
    flops_estimate: int
    checkpoints_kept: int
    checkpoint_weights_bytes: int
    checkpoint_optimizer_bytes: int
    validation_loss_first: float | None = None
    validation_loss_best: float | None = None
    validation_loss_last: float | None = None
    general_holdout_loss_first: float | None = None
    general_holdout_loss_last: float | None = None
    tokens_per_second: float | None = None
    resumed_from: tuple[int, ...] = ()
    imported_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    peak_device_reserved_bytes: int | None = None
    method: str | None = None
    flops: int | None = None
    effective_rank: float | None = None
    spectrum_condition: float | None = None
    benchmark_first: float | None = None
    benchmark_last: float | None = None
    repeated_4grams_first: float | None = None
    repeated_4grams_last: float | None = None
    empty_answers_first: float | None = None
    empty_answers_last: float | None = None
    measured_on: Mapping[str, str] = field(default_factory=dict)
    validation_loss_on: Mapping[str, float] = field(default_factory=dict)
    validation_by_example: Sequence[Sequence[float]] = ()
    measured_tokens: int | None = None
    measuring_flops: float | None = None
    stopped: str | None = None
    stop_reason: str | None = None
    general_loss_limit: float | None = None
    advice: tuple[str, ...] = ()
    micro_batch_halved: bool = False
    learning_rate_lowered: float | None = None
    predicted: Mapping[str, Any] | None = None
    not_finite: Mapping[str, str] = field(default_factory=dict)
    computed_on: str = ""
    expert_matrices: int | None = None
    expert_matrices_moved: int | None = None
    shared_tokens: int = 0

    def learning_rate(self, planned: float) -> float:
        """Return the rate it was trained at."""
        return self.learning_rate_lowered or planned

    @property
    def held_bytes(self) -> int | None:
        """Return the memory held at its highest moment, as a plan estimates it: what CUDA's allocator
        reserved, else the process above what its imports take. None where that was not measured.
        """
        if self.peak_device_reserved_bytes is not None:
            return self.peak_device_reserved_bytes
        peak, before = self.peak_memory_bytes, self.imported_bytes
        return None if before is None or peak <= before else peak - before

    @property
    def peak_bytes(self) -> int:
        """Return `held_bytes`, or what else is known: of an older training the device's tensors, or the
        process.
        """
        return self.held_bytes or self.peak_device_memory_bytes or self.peak_memory_bytes

    def to_json(self) -> dict[str, object]:
        """Return the figures as they are stored, by name; without those of `SILENT` that say nothing."""
        content = asdict(self) | {"resumed_from": list(self.resumed_from), "advice": list(self.advice)}
        return {name: content[name] for name in sorted(content) if name not in SILENT or content[name]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingFigures:
        """Read what `to_json` wrote, now or in version 0.1."""
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        lines = {name: tuple(known.get(name, ())) for name in ("resumed_from", "advice")}
        predicted = content.get("predicted") or content.get(PREDICTED_IN_0_1)
        return cls(**{**known, **lines, "predicted": predicted})

    @classmethod
    def of(cls, model: Artifact) -> TrainingFigures:
        """Return the figures of a fine_tuned_model."""
        return cls.from_json(model.figures)
