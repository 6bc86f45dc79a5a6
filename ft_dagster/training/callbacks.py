"""Acts at each optimizer step beside the step itself: journal, log, progress, evaluation, stop."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from transformers import TrainerCallback

from ft_dagster.training.batches.apart import refuse_leaking
from ft_dagster.training.figures import peak_device_bytes, peak_process_bytes
from ft_dagster.training.journal import Journal, JournalStep, StepLog
from ft_dagster.training.progress import TrainingProgress
from ft_dagster.training.sft import TokenTrainer
from ft_dagster.training.stop_signals import Stop
from ft_dagster.training.watch.observer import Observer


class ApartCallback(TrainerCallback):
    """Raises UserError before the first step where packed examples of what trains reach each other."""

    def __init__(self, trainer: TokenTrainer, *, exact: bool) -> None:
        """Check a training of `trainer`. `exact`: its weights and products are in fp32."""
        self._trainer, self._exact = trainer, exact

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        refuse_leaking(self._trainer, exact=self._exact)


class WatchCallback(TrainerCallback):
    """Keeps the journal; evaluates and asks for a checkpoint at `evaluation_steps`; asks for one at
    `resume_steps`, when it is due by time, or when told to stop.

    `observer` looks at the model after each evaluation, and may end the training.
    """

    def __init__(
        self,
        trainer: TokenTrainer,
        *,
        journal: Journal,
        log: StepLog,
        progress: TrainingProgress,
        stop: Stop,
        evaluation_steps: list[int],
        observer: Observer,
        resume_steps: Collection[int] = (),
    ) -> None:
        self._trainer, self._journal, self._log, self._progress = trainer, journal, log, progress
        self._stop, self._observer = stop, observer
        self._evaluation_steps, self._resume_steps = evaluation_steps, resume_steps
        self._evaluation_seconds = 0.0  # of the last one
        self._said_slow = False
        self._began = time.perf_counter()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self._timed_evaluation(0)

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
        step, done = self._trainer.current, state.global_step
        seconds = time.perf_counter() - self._began
        self._journal.consume(step, seconds)
        speed = self._journal.tokens / self._journal.seconds
        rate = _used_rate(state, self._trainer)
        self._write(done, step, rate, seconds)
        self._observer.judge_rate(done)
        eta = self._eta(done, state.max_steps)
        self._progress.step(done, step.loss, speed, eta, step.grad_norm, rate)
        if done in self._evaluation_steps:
            self._timed_evaluation(done)
            control.should_save = True
            if self._observer.stopped:
                control.should_training_stop = True
        if self._trainer.save or done in self._resume_steps:
            control.should_save = True
        if self._trainer.stop:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Say once where a preemption would not leave the time to save."""
        took = self._trainer.timer.last_seconds
        grace = self._stop.grace
        if took > grace and not self._said_slow:
            self._said_slow = True
            self._progress.say(
                f"a checkpoint takes {took:.0f} s, more than the {grace:.0f} s between a preemption "
                "and the end: one would cost what was trained since the last checkpoint "
                "(training.checkpoint_minutes)"
            )

    def _write(self, done: int, step: JournalStep, rate: float, seconds: float) -> None:
        """Write the step's line of log.jsonl, and its points of the curves that are reported elsewhere."""
        flops = self._observer.flops_spent()
        self._log.write(
            {
                "step": done,
                "epoch": round(self._journal.epochs, 4),
                "loss": step.loss,
                "grad_norm": step.grad_norm,
                "learning_rate": rate,
                "tokens": step.tokens,
                "trained_tokens": step.trained_tokens,
                "seconds": round(seconds, 4),
                "flops": flops,
                "batch": step.digest,
            }
        )
        self._observer.reports.write(
            {
                "loss": step.loss,
                "grad_norm": step.grad_norm,
                "learning_rate": rate,
                "tokens_per_second": step.tokens / seconds,
                "trained_tokens": self._journal.trained_tokens,
                "flops": flops,
            }
        )

    def _timed_evaluation(self, step: int) -> None:
        began = time.perf_counter()
        self._observe(self._observer, step)
        self._evaluation_seconds = time.perf_counter() - began

    def _observe(self, observer: Observer, step: int) -> None:
        observer.observe(step)
        memory = peak_device_bytes(self._trainer.model)[0] or peak_process_bytes()
        self._log.write({"step": step, "peak_memory_bytes": memory})
        spent = observer.flops_spent()
        self._progress.at(
            step,
            f"{self._journal.trained_tokens:,} trained tokens"
            + (f"  {spent:.2e} FLOPs" if spent else "")
            + f"  peak memory {memory / 1e9:.2f} GB",
        )
        benchmark = observer.last("benchmark", step) or {}
        observer.reports.write(
            {
                "eval_validation_loss": self._journal.loss_at("validation", step),
                "eval_general_loss": self._journal.loss_at("general_holdout", step),
                "eval_benchmark": benchmark.get("mean"),
                "peak_memory_bytes": memory,
            }
        )

    def _eta(self, done: int, steps: int) -> float:
        left = sum(step >= done for step in self._evaluation_steps)
        return (steps - done) * self._journal.seconds / done + left * self._evaluation_seconds


def _used_rate(state: Any, trainer: TokenTrainer) -> float:
    """Return the rate of the step just made: the scheduler already stands at the next."""
    place = state.global_step - 1 + trainer.skipped_rates(state.max_steps)
    return float(trainer.lr_scheduler.lr_lambdas[0](place) * trainer.args.learning_rate)
