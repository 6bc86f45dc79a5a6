"""TRL's SFTTrainer on our batches: what is trained on, what is counted, when to stop, how to save."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import Trainer
from trl import SFTTrainer

from ft_dagster.training import checkpoints
from ft_dagster.training.batches import Collator, batch_digest
from ft_dagster.training.journal import Step
from ft_dagster.training.mixture import Examples
from ft_dagster.training.packing import Bin


def loss_at_trained_positions(model: Any, inputs: dict[str, Any], tokens: torch.Tensor | int) -> torch.Tensor:
    """Summed cross-entropy of the labels over `tokens`; logits only where some row has a label.

    TRL's own head does this on GPUs; elsewhere it computes every position.
    """
    labels = inputs["labels"][:, 1:]
    columns = (labels != -100).any(dim=0).nonzero().squeeze(1)
    logits = model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        use_cache=False,
        logits_to_keep=columns,
    ).logits
    total = cross_entropy(logits.flatten(0, 1).float(), labels[:, columns].flatten(), reduction="sum")
    return total / tokens


class TokenTrainer(SFTTrainer):
    """One optimizer step = the mean loss over all trained tokens of its micro-batches.

    `diverged(quantity, value, ordinals)` is called, and must raise, where a loss or gradient is not
    finite; `saved(folder)` where a checkpoint's files are written.
    """

    loss_is_scaled_for_ga = True  # by num_items_in_batch, in compute_loss

    def __init__(
        self,
        *args: Any,
        diverged: Callable[[str, float, list[int]], None],
        saved: Callable[[Path], None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that Trainer counts num_items_in_batch
        self.processing_class = None  # else every checkpoint holds the tokenizer
        self._diverged, self._saved = diverged, saved
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._keeps_logits = "logits_to_keep" in inspect.signature(type(base).forward).parameters
        self.current = Step([], "", 0, 0, 0)
        self._micro_batch = 0

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        bins = [batch.pop("ordinals") for batch in batches]
        lengths = self.data_collator.examples.lengths
        self.current = Step(
            bins,
            batch_digest(batches),
            tokens=sum(int(lengths[i]) for ordinals in bins for b in ordinals for i in b),
            trained_tokens=sum(int((batch["labels"] != -100).sum()) for batch in batches),
            slots=sum(batch["input_ids"].numel() for batch in batches),
        )
        self._micro_batch = 0
        return batches, tokens

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        fused = inputs["input_ids"].device.type == "cuda"
        if fused or return_outputs or not self._keeps_logits:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        tokens = num_items_in_batch
        if tokens is None:
            tokens = (inputs["labels"][:, 1:] != -100).sum().clamp(min=1)
        return loss_at_trained_positions(model, inputs, tokens)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        value = loss.item()
        if not math.isfinite(value):
            self._diverged("loss", value, [i for b in self.current.bins[self._micro_batch] for i in b])
        self.current.loss += value
        self._micro_batch += 1
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self.current.grad_norm = float(norm)
        if not math.isfinite(self.current.grad_norm):
            ordinals = [i for bins in self.current.bins for b in bins for i in b]
            self._diverged("gradient norm", self.current.grad_norm, ordinals)
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = checkpoints.folder_of(Path(self.args.output_dir), self.state.global_step)
        checkpoints.discard(folder)  # a damaged one, or of another recipe
        Trainer._save_checkpoint(self, model, trial)  # TRL's own adds a model card
        self._saved(folder)

    def load_weights(self, folder: Path) -> None:
        """Put the weights of a checkpoint, or an adapter, back into the model."""
        self._load_from_checkpoint(str(folder))

    def mean_loss(self, examples: Examples, bins: list[Bin], rows: int) -> float:
        """Loss of `examples`, nats a trained token, `rows` bins at a time; draws no random number."""
        collate = Collator(examples, self.data_collator.pad_token_id)
        was_training = self.model.training
        self.model.eval()
        total = 0.0
        with torch.no_grad():
            for first in range(0, len(bins), rows):
                batch = collate([{"bin": ordinals} for ordinals in bins[first : first + rows]])
                batch.pop("ordinals")
                with self.compute_loss_context_manager():
                    inputs = self._prepare_inputs(batch)
                    total += self.compute_loss(self.model, inputs, num_items_in_batch=1).item()
        self.model.train(was_training)
        return total / examples.trained_tokens
