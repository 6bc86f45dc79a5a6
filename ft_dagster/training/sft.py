"""Runs TRL's SFTTrainer on our batches: what is trained on, what is counted, when to stop, how to save."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import Trainer
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from trl import SFTTrainer

from ft_dagster.errors import UserError
from ft_dagster.objectives import loss_of
from ft_dagster.training import checkpoints, data_parallel, ranks
from ft_dagster.training.batches.attention import LENGTHS, TIMES, Batch, packed, squares
from ft_dagster.training.batches.batches import Collator, batch_digest, joined_digest, side_by_side
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin
from ft_dagster.training.journal import JournalStep
from ft_dagster.training.loss import (
    learned_prompt,
    loss_at_trained_positions,
    losses_by_example,
    readable_head,
    step_loss,
)

T = TypeVar("T")


class TokenTrainer(SFTTrainer):
    """Makes one optimizer step of the mean loss over all trained tokens of its micro-batches.

    `diverged(quantity, value, ordinals)` is called, and must raise, where a loss or gradient is not
    finite, on every rank alike; `saved(folder)` where a checkpoint's files are written; `stopping()` says
    whether this process was asked to stop; `timer` when a checkpoint is due by time. `own_loss`: the
    objective whose own loss it is, None for the shared one. Over several ranks, `current`, `stop` and `save`
    are of all of them after each step. What a step has found is read from the device once, when its gradients
    are.
    """

    def __init__(
        self,
        *args: Any,
        diverged: Callable[[str, float, list[int]], None],
        saved: Callable[[Path], None],
        stopping: Callable[[], bool] = lambda: False,
        timer: checkpoints.CheckpointTimer | None = None,
        own_loss: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that Trainer counts num_items_in_batch
        self.processing_class = None  # else every checkpoint holds the tokenizer
        self._diverged, self._saved, self._stopping = diverged, saved, stopping
        self.timer = timer or checkpoints.CheckpointTimer(None)
        self.stop = self.save = False
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._keeps_logits = "logits_to_keep" in inspect.signature(type(base).forward).parameters
        text = base.config.get_text_config()
        if hasattr(text, "output_router_logits"):  # TRL asks for them in each step whose loss has them
            text.output_router_logits = False  # and no other pass is of the shape that they are summed in
        self._own_loss, self._summed = own_loss, loss_of(own_loss)
        if own_loss and not self._keeps_logits:
            raise _no_logits_to_keep(own_loss, type(base).__name__)
        self.current = JournalStep([], "", 0, 0, 0)
        self._losses: list[torch.Tensor] = []  # of the micro-batches of this step
        self._measuring = self._warmed_up = False
        self.model.train()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule; with a warm-up it has one step more and begins at its second: the rate of its
        first is 0.
        """
        skipped = self.skipped_rates(num_training_steps)
        scheduler = super().create_scheduler(num_training_steps + skipped, optimizer)
        for _ in range(skipped):
            scheduler.step()
        return scheduler

    def skipped_rates(self, steps: int) -> int:
        """Count the rates of the schedule before that of the first step."""
        return int(self.args.get_warmup_steps(steps) > 0)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        bins = [batch.pop("ordinals") for batch in batches]
        examples, ordinals = self.data_collator.examples, _flat(bins)
        consumed, taught = int(examples.lengths[ordinals].sum()), int(examples.trained[ordinals].sum())
        again = again_labels = 0
        if examples.beginnings is not None:
            again = consumed - sum(sum(row) for batch in batches for row in batch[LENGTHS])
            again_labels = taught - sum(int((batch["labels"] != -100).sum()) for batch in batches)
        self.current = JournalStep(
            bins,
            batch_digest([batch.pop("content") for batch in batches]),
            tokens=consumed,
            trained_tokens=taught,
            shared=again,
            shared_labels=again_labels,
            slots=sum(batch["input_ids"].numel() for batch in batches),
        )
        self._losses = []
        return batches, tokens

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Any:
        """Count the labels of a step over all ranks, one in common as often as examples have it."""
        counted = super()._get_num_items_in_batch(batch_samples, device)
        if counted is None or self.data_collator.examples.beginnings is None:
            return counted
        found = (batch[TIMES] for batch in batch_samples if TIMES in batch)
        return counted + sum(ranks.gather(sum(int((times - 1).clamp(min=0).sum()) for times in found)))

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        tokens = num_items_in_batch
        if tokens is not None and not self._measuring:  # of all ranks, whose gradients will be averaged
            tokens = torch.as_tensor(tokens).clamp(min=1) / ranks.world()
        if return_outputs or not self._keeps_logits or self._balances_experts(model, inputs):
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return loss / ranks.world() if self._measuring else loss  # which Trainer multiplies by it
        if tokens is None:
            tokens = (inputs["labels"][:, 1:] != -100).sum().clamp(min=1)
        if self._measuring:
            return loss_at_trained_positions(model, inputs, tokens, self._summed)
        device = inputs["input_ids"].device.type
        return step_loss(model, inputs, tokens, device=device, own_loss=self._own_loss, summed=self._summed)

    def _balances_experts(self, model: Any, inputs: Batch) -> bool:
        """Say whether TRL adds the loss that balances a router's experts: in steps of the shared loss on
        GPUs.
        """
        shared = not self._own_loss and learned_prompt(model) is None and readable_head(model)
        on_gpu = inputs["input_ids"].device.type == "cuda"
        return bool(self.aux_loss_enabled and on_gpu and not self._measuring and shared)

    def training_step(
        self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Do Trainer's own step without what is not used here; nor does it walk the modules to set their
        mode.
        """
        inputs = self._prepare_inputs(inputs)
        if not self._warmed_up and data_parallel.rebuilds_buckets(model):
            with data_parallel.bucket_warm_up(model):
                self._forward_and_backward(model, {**inputs}, num_items_in_batch)
        self._warmed_up = True
        loss, attended = self._forward_and_backward(model, inputs, num_items_in_batch)
        self.current.squares += attended
        self._losses.append(loss)
        return loss

    def _forward_and_backward(
        self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, int]:
        """Return the loss, and the squared lengths of what attended to itself."""
        scaled = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        with packed(self.model, inputs, off=learned_prompt(model) is not None):
            attended = squares(inputs)
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss, **scaled)
        return loss.detach(), attended

    def floating_point_ops(self, inputs: Batch) -> int:
        """Return 0: Trainer's own counts all parameters anew each time, and `watch.flops` knows better."""
        return 0

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        found = [*self._losses, torch.as_tensor(norm, device=self._losses[0].device)]
        *losses, self.current.grad_norm = torch.stack([each.float() for each in found]).tolist()
        self.current.loss = sum(losses)
        everyones = ranks.gather((self.current, losses, self._stopping(), self.timer.due()))
        steps, of_micro_batches, stops, dues = zip(*everyones, strict=True)
        for step, each in zip(steps, of_micro_batches, strict=True):  # so that all ranks raise, and alike
            for loss, bins in zip(each, step.bins, strict=True):
                if not math.isfinite(loss):
                    self._diverged("loss", loss, _flat([bins]))
        self.current, self.stop, self.save = together(list(steps)), any(stops), dues[0]
        if not math.isfinite(self.current.grad_norm):
            self._diverged("gradient norm", self.current.grad_norm, _flat(self.current.bins))
        if not self.current.trained_tokens:
            # Slots of erased records alone: without a gradient a parameter is passed over by the optimizer,
            # while one of zeros would be moved by its moments and by weight decay.
            self.model.zero_grad(set_to_none=True)
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model unless DeepSpeed's own checkpoint holds the weights: a second, rounded copy would
        only cost storage.
        """
        if not (self.is_deepspeed_enabled and _internal_call):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.timer.saving():
            self._write_checkpoint(model, trial)

    def _write_checkpoint(self, model: Any, trial: Any) -> None:
        folder = checkpoints.folder_of(Path(self.args.output_dir), self.state.global_step)
        if ranks.is_first():
            checkpoints.discard(folder)  # a damaged one, or of another recipe
        ranks.wait()
        folder.mkdir(parents=True, exist_ok=True)
        torch.serialization.set_crc32_options(False)  # the manifest has better sums, made once
        Trainer._save_checkpoint(self, model, trial)  # TRL's own adds a model card
        ranks.wait()
        if ranks.is_first():
            self._saved(folder)
        ranks.wait()

    def load_weights(self, folder: Path) -> None:
        """Put the weights of a checkpoint, or an adapter, back into the model."""
        if self.is_deepspeed_enabled:
            adapter = hasattr(self.model, "peft_config")
            deepspeed_load_checkpoint(self.model_wrapped, str(folder), load_module_strict=not adapter)
        else:
            self._load_from_checkpoint(str(folder))

    def summed_loss(self, examples: Examples, bins: list[Bin], rows: int) -> float:
        """Return the loss of these bins of `examples`, nats, `rows` of them at a time; draws no random
        number.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        for loss in self._of_batches(examples, bins, rows, lambda _, inputs: self._measured(inputs)):
            total += loss
        return float(sum(ranks.gather(total.item())))

    @property
    def tells_examples_apart(self) -> bool:
        """Say whether `losses_by_example` can be had: not where the architecture makes all logits by
        itself.
        """
        return self._keeps_logits

    def losses_by_example(self, examples: Examples, bins: list[Bin], rows: int) -> dict[int, float]:
        """Return the loss of each example, by its ordinal."""

        def each(mine: list[Bin], inputs: Batch) -> dict[int, float]:
            lengths = [examples.lengths[ordinals].tolist() for ordinals in mine]
            found = losses_by_example(self.model, inputs, lengths, self._summed)
            return dict(zip(chain(*mine), found, strict=True))

        everyones = ranks.gather(self._of_batches(examples, bins, rows, each))
        return dict(pair for batches in everyones for losses in batches for pair in losses.items())

    def _measured(self, inputs: Batch) -> torch.Tensor:
        loss: torch.Tensor = self.compute_loss(self.model, inputs, num_items_in_batch=1)
        return loss

    def _of_batches(
        self,
        examples: Examples,
        bins: list[Bin],
        rows: int,
        found: Callable[[list[Bin], Batch], T],
    ) -> list[T]:
        """Return what `found` gives for the bins and tensors of each batch of this rank.

        Each rank takes its share, in step with the others: a sharded model computes only together.
        """
        collate = Collator(examples, self.data_collator.pad_token_id, self.data_collator.max_length)
        batches = side_by_side(bins, rows)
        batches += [[[]]] * (-len(batches) % ranks.world())
        was_training = self.model.training
        self.model.eval()
        prompt = learned_prompt(self.model) is not None
        self._measuring = True
        made: list[T] = []
        with torch.no_grad():
            for mine in batches[self.args.process_index :: ranks.world()]:
                batch = collate([{"bin": ordinals} for ordinals in mine])
                del batch["ordinals"], batch["content"]
                inputs = self._prepare_inputs(batch)
                with packed(self.model, inputs, off=prompt), self.compute_loss_context_manager():
                    made.append(found(mine, inputs))
        self._measuring = False
        self.model.train(was_training)
        return made


def _no_logits_to_keep(objective: str, architecture: str) -> UserError:
    return UserError(
        f"{architecture} gives no logits at chosen positions, and this objective's loss is computed there",
        field="objective",
        value=objective,
        fix="Take another objective, or a base model of another architecture",
    )


def together(steps: list[JournalStep]) -> JournalStep:
    """Join the ranks' parts of one optimizer step: by micro-batch, then in the order of the ranks."""
    if len(steps) == 1:
        return steps[0]
    return JournalStep(
        bins=[bins for micro in zip(*(step.bins for step in steps), strict=True) for bins in micro],
        digest=joined_digest([step.digest for step in steps]),
        tokens=sum(step.tokens for step in steps),
        trained_tokens=sum(step.trained_tokens for step in steps),
        shared=sum(step.shared for step in steps),
        shared_labels=sum(step.shared_labels for step in steps),
        slots=sum(step.slots for step in steps),
        squares=sum(step.squares for step in steps),
        loss=sum(step.loss for step in steps) / len(steps),
        grad_norm=steps[0].grad_norm,
    )


def _flat(micro_batches: list[list[Bin]]) -> list[int]:
    return [ordinal for bins in micro_batches for ordinals in bins for ordinal in ordinals]
