"""Records what a training has done so far: consumption, evaluations, counters. Every checkpoint holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from ft_dagster.program import SCHEMA_VERSION, write_json
from ft_dagster.strict_json import dumps, restored
from ft_dagster.training.batches.packing import Bin

FILE = "journal.json"
EXPORTED = "exported"  # marks lines of the log about the exported model, after its training


@dataclass
class JournalStep:
    """Records one optimizer step: its micro-batches' bins, the digest of their tensors, and what it cost and
    gave.
    """

    bins: list[list[Bin]]
    digest: str
    tokens: int
    trained_tokens: int
    slots: int
    squares: int = 0
    shared: int = 0
    shared_labels: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0


@dataclass
class Journal:
    """Counts what a training did after `len(batches)` optimizer steps.

    `times` counts per example ordinal; `slots` are positions computed, padding among them, in `rows` of
    `micro_batches`, and `squares` the sum of the squared lengths of what attends to itself: examples, or
    whole rows where there is a mask (`attention.squares`); `seconds` are those of training steps alone.
    `evaluations` maps a split to {step: loss}; `observations` are log lines, each with its "step".
    `measured_tokens`, `measuring`: of the looks at it; the latter in FLOPs, or in tokens where those cannot
    be counted. `lowered`: it was begun again at a lower rate. `shared`, `shared_labels`: of `tokens` and
    `trained_tokens`, those that were not computed, for a beginning was computed once for several examples.
    `unlabelled`: steps, from 1, without a label: all their examples are slots of erased records, and they
    moved no weight.
    """

    times: list[int]
    batches: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    trained_tokens: int = 0
    slots: int = 0
    squares: int = 0
    rows: int = 0
    micro_batches: int = 0
    seconds: float = 0.0
    measured_tokens: int = 0
    measuring: float = 0.0
    evaluations: dict[str, dict[int, float]] = field(default_factory=dict)
    observations: list[dict[str, object]] = field(default_factory=list)
    resumed_from: list[int] = field(default_factory=list)
    lowered: bool = False
    shared: int = 0
    shared_labels: int = 0
    unlabelled: list[int] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return len(self.batches)

    @property
    def labels(self) -> int:
        """Count the labels whose loss was computed."""
        return self.trained_tokens - self.shared_labels

    @property
    def epochs(self) -> float:
        """Return the examples consumed over the examples there are."""
        return sum(self.times) / len(self.times)

    def consume(self, step: JournalStep, seconds: float) -> None:
        for ordinal in (i for bins in step.bins for ordinals in bins for i in ordinals):
            self.times[ordinal] += 1
        self.batches.append(step.digest)
        self.losses.append(step.loss)
        if not step.trained_tokens:
            self.unlabelled.append(self.steps)
        self.tokens += step.tokens
        self.trained_tokens += step.trained_tokens
        self.shared += step.shared
        self.shared_labels += step.shared_labels
        self.slots += step.slots
        self.squares += step.squares
        self.rows += sum(map(len, step.bins))
        self.micro_batches += len(step.bins)
        self.seconds += seconds

    def learned(self, upto: int | None = None) -> dict[int, float]:
        """Return the loss of each step, from 1, that had a label: of all, or of the first `upto` steps."""
        without = set(self.unlabelled)
        numbered = enumerate(self.losses[:upto], start=1)
        return {step: loss for step, loss in numbered if step not in without}

    def measured(self, tokens: int, cost: float) -> None:
        """Add a part of a look that was not kept from another training."""
        self.measured_tokens += tokens
        self.measuring += cost

    def evaluated(self, split: str, step: int, loss: float) -> None:
        self.evaluations.setdefault(split, {})[step] = loss

    def loss_at(self, split: str, step: int) -> float | None:
        return self.evaluations.get(split, {}).get(step)

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(dumps(asdict(self)), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Journal:
        """Read the journal as it was saved, a loss that is no finite number too: a resume decides nothing
        otherwise.
        """
        content = restored(json.loads((folder / FILE).read_text("utf-8")))
        content["evaluations"] = {
            split: {int(step): loss for step, loss in losses.items()}
            for split, losses in content["evaluations"].items()
        }
        return cls(**content)


class Ledger(TypedDict):
    """Describes ledger.json, the ledger of a training.

    It has per example (by ordinal) its record and how often it was consumed, and the digest of each
    step's batch. `times_exported` counts up to `exported_step`, whose weights are exported; later steps only
    lost the comparison.
    """

    schema_version: int
    mixture_digest: str
    steps: int
    exported_step: int
    records: list[str]
    times: list[int]
    times_exported: list[int]
    batches: list[str]


def write_ledger(
    file: Path, whole: Journal, exported: Journal, records: list[str], mixture_digest: str
) -> None:
    """Write the ledger of a training. `exported`: up to the step whose weights are exported."""
    ledger: Ledger = {
        "schema_version": SCHEMA_VERSION,
        "mixture_digest": mixture_digest,
        "steps": whole.steps,
        "exported_step": exported.steps,
        "records": records,
        "times": whole.times,
        "times_exported": exported.times,
        "batches": whole.batches,
    }
    write_json(file, ledger)


class StepLog:
    """Writes evidence/log.jsonl: one line per step or evaluation; on resume the lines beyond the checkpoint
    go, and those about the exported model, which are written again.
    """

    def __init__(self, file: Path | None, resumed_step: int) -> None:
        self._file = file
        if file is None:  # another rank writes
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        known = log_lines(file) if resumed_step else []
        kept = [line for line in known if line["step"] <= resumed_step and not line.get(EXPORTED)]
        file.write_text("".join(dumps(line) + "\n" for line in kept), "utf-8")

    def write(self, line: Mapping[str, object]) -> None:
        if self._file is None:
            return
        with self._file.open("a", encoding="utf-8") as file:
            file.write(dumps(line) + "\n")


def log_lines(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines; the last may be cut where the process was killed."""
    lines = []
    for text in file.read_text("utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
