"""Reports how far an evaluation is: plain lines on stdout for people, progress.json for the run's page."""

from __future__ import annotations

import time
from pathlib import Path

from ft_dagster.program import duration, write_json

FILE = "progress.json"
LINE_SECONDS = 5.0
FILE_SECONDS = 1.0


class EvaluationProgress:
    """Counts questions over all tasks. One at a time: `start` a task, `advance` it, start the next."""

    def __init__(self, folder: Path, questions: int) -> None:
        self.file = folder / FILE
        self.total = questions
        self.finished = 0
        self.started = time.monotonic()
        self.task, self.size, self.share = "", 0, 0.0
        self.last_line = self.last_file = 0.0

    @staticmethod
    def loads(folder: Path) -> None:
        """Say that the model is being loaded, before the questions are counted."""
        write_json(folder / FILE, {"task": "loads the model"})

    def start(self, task: str, questions: int) -> None:
        """Begin a task of `questions` questions; the one before counts as done."""
        self.finished += self.size
        self.task, self.size, self.share = task, questions, 0.0
        self._report(force=True)

    def advance(self, share: float) -> None:
        """Note that the running task is `share` (0 to 1) done."""
        self.share = max(self.share, min(share, 1.0))
        self._report(force=share >= 1.0)

    def leave_out(self, questions: int) -> None:
        """Subtract so many questions that were counted and will not be asked."""
        self.total -= questions

    def end(self) -> None:
        """Note that all tasks are done."""
        self.finished, self.size, self.share, self.task = self.total, 0, 0.0, "done"
        self._report(force=True)

    def _report(self, *, force: bool) -> None:
        now = time.monotonic()
        done = self.finished + self.share * self.size
        left = (now - self.started) * (self.total - done) / done if done else None
        if force or now - self.last_file >= FILE_SECONDS:
            self.last_file = now
            eta = None if left is None else round(left, 1)
            write_json(
                self.file, {"done": int(done), "total": self.total, "task": self.task, "eta_seconds": eta}
            )
        if force or now - self.last_line >= LINE_SECONDS:
            self.last_line = now
            print(self._line(done, left), flush=True)

    def _line(self, done: float, left: float | None) -> str:
        waiting = "" if left is None or done >= self.total else f", about {duration(left)} left"
        own = f"{self.task} {int(self.share * self.size)}/{self.size}, " if self.size else ""
        return f"evaluation: {own}{int(done)}/{self.total} questions{waiting}"
