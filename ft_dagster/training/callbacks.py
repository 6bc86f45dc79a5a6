"""What happens at each optimizer step beside the step itself: journal, log, progress, evaluation, stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

from ft_dagster.training.journal import Journal, StepLog
from ft_dagster.training.progress import Progress
from ft_dagster.training.sft import TokenTrainer
from ft_dagster.training.stop import Stop


class Watch(TrainerCallback):
    """Keeps the journal; evaluates and asks for a checkpoint at `evaluation_steps`, or when told to stop."""

    def __init__(
        self,
        trainer: TokenTrainer,
        *,
        journal: Journal,
        log: StepLog,
        progress: Progress,
        stop: Stop,
        evaluation_steps: list[int],
        evaluate: Callable[[int], None],
    ) -> None:
        self._trainer, self._journal, self._log, self._progress = trainer, journal, log, progress
        self._stop, self._evaluate = stop, evaluate
        self._evaluation_steps = evaluation_steps
        self._evaluation_seconds = 0.0  # of the last one
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
        self._log.write(
            {
                "step": done,
                "epoch": round(self._journal.epochs, 4),
                "loss": step.loss,
                "grad_norm": step.grad_norm,
                "learning_rate": _used_rate(state, self._trainer),
                "tokens": step.tokens,
                "trained_tokens": step.trained_tokens,
                "seconds": round(seconds, 4),
                "batch": step.digest,
            }
        )
        self._progress.step(done, step.loss, speed, self._eta(done, state.max_steps))
        if done in self._evaluation_steps:
            self._timed_evaluation(done)
            control.should_save = True
        if self._stop.requested:
            control.should_save = control.should_training_stop = True
        return control

    def _timed_evaluation(self, step: int) -> None:
        began = time.perf_counter()
        self._evaluate(step)
        self._evaluation_seconds = time.perf_counter() - began

    def _eta(self, done: int, steps: int) -> float:
        left = sum(step >= done for step in self._evaluation_steps)
        return (steps - done) * self._journal.seconds / done + left * self._evaluation_seconds


def _used_rate(state: Any, trainer: TokenTrainer) -> float:
    """The rate of the step just made: the scheduler already stands at the next."""
    return float(trainer.lr_scheduler.lr_lambdas[0](state.global_step - 1) * trainer.args.learning_rate)
