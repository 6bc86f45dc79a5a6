"""Shows a training to the outside: live lines and messages through Dagster Pipes, else on stdout.

The only file of the core that may import dagster_pipes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ft_dagster.program import Progress, duration, write_json
from ft_dagster.strict_json import finite

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_FILES = 0.2


class Channel(Protocol):
    """Takes lines and messages."""

    def say(self, line: str) -> None:
        """Show one line to people."""

    def report(self, message: dict[str, object]) -> None:
        """Send one JSON message to the asset that launched us."""


class Console:
    """Prints progress where no Dagster listens."""

    def say(self, line: str) -> None:
        print(line, flush=True)

    def report(self, message: dict[str, object]) -> None:
        """Ignore the message: without Dagster nobody collects messages, and the result files say the same."""


class Silent(Console):
    """Says nothing, in the ranks that are not the first."""

    def say(self, line: str) -> None:
        """Say nothing: rank 0 speaks for all."""


class Pipes:
    """Sends progress to Dagster through its pipes."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def say(self, line: str) -> None:
        self._context.log.info(line)

    def report(self, message: dict[str, object]) -> None:
        self._context.report_custom_message(finite(message))


@contextmanager
def open_channel() -> Iterator[Channel]:
    """Yield a Dagster Pipes session if one is offered (rank 0 only), else stdout."""
    if os.environ.get("RANK", "0") != "0":
        yield Silent()
        return
    if not os.environ.get("DAGSTER_PIPES_CONTEXT"):
        yield Console()
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as context:
        yield Pipes(context)


class TrainingProgress:
    """Shows the progress of one member: a line every few seconds, and progress.json for a bar in a
    terminal.
    """

    def __init__(self, channel: Channel, file: Path | None, variant: str, total_steps: int) -> None:
        self._channel = channel
        self._file = file
        self._variant = variant
        self._total = total_steps
        self._said = self._written = 0.0
        self._asked: Progress = {}

    def say(self, line: str) -> None:
        self._channel.say(line)

    def warn(self, line: str) -> None:
        """Say a warning twice: a line of the log is easily missed."""
        self.say(line)
        print(line, file=sys.stderr, flush=True)

    def at(self, step: int, line: str) -> None:
        """Say what was seen at a step."""
        self.say(f"step {step}/{self._total}  {line}")

    def asked(self, now: float, base: float) -> None:
        """Keep the accuracy on general questions, the model's and its base's, for what is shown until the
        next look.
        """
        self._asked = {"questions_right": now, "base_right": base}

    def step(  # noqa: PLR0917
        self,
        step: int,
        loss: float,
        tokens_per_second: float,
        eta_seconds: float,
        grad_norm: float,
        learning_rate: float,
    ) -> None:
        now, ends = time.monotonic(), step in (1, self._total)
        if ends or now - self._written >= SECONDS_BETWEEN_FILES:
            self._written = now
            self._write(step, loss, tokens_per_second, eta_seconds)
        if ends or now - self._said >= SECONDS_BETWEEN_LINES:
            self._said = now
            self.say(
                f"step {step}/{self._total}  loss {loss:.2f}  gradient {grad_norm:.2g}"
                f"  rate {learning_rate:.1e}  {tokens_per_second:,.0f} tok/s"
                f"  ETA {duration(max(0.0, eta_seconds))}"
            )

    def evaluated(self, step: int, split: str, loss: float, on: str, best: bool) -> None:
        """Report a loss. `on`: what it was measured on."""
        self.say(f"step {step}/{self._total}  {split} loss {loss:.3f} on {on}{'  (best)' if best else ''}")
        self._channel.report(
            {"type": "evaluation", "variant": self._variant, "step": step, "split": split, "loss": loss}
        )

    def _write(self, step: int, loss: float, tokens_per_second: float, eta_seconds: float) -> None:
        figures: Progress = {
            "step": step,
            "total_steps": self._total,
            "loss": loss,
            "tokens_per_second": tokens_per_second,
            "eta_seconds": eta_seconds,
            **self._asked,
        }
        if self._file is not None:
            write_json(self._file, figures)
        self._channel.report({"type": "progress", "variant": self._variant, **figures})
