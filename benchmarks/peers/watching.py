"""What a peer's script tells of its training: seconds of the steps, trained tokens, memory. For transformers.

Runs in a peer's environment, so that it imports nothing of this project.
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import TrainerCallback


def resident_bytes(field: str = "VmRSS") -> int:
    """Of this process: `VmRSS` now, `VmHWM` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: this benchmark needs Linux")


class Watch(TrainerCallback):
    """Given to the trainer once its libraries are imported and before it loads a weight."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"imported_bytes": resident_bytes()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        weights = given["model"].parameters()
        self.found["weights_bytes"] = sum(w.numel() * w.element_size() for w in weights)
        self._began = time.monotonic()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.found["steps_seconds"] = time.monotonic() - self._began
        self.found["steps"] = state.global_step
        self.found["trained_tokens"] = trained_tokens(given["train_dataloader"].dataset)

    def tell(self, *libraries: str) -> None:
        """One line of JSON, the last on stdout."""
        versions = {name: version(name) for name in ("torch", "transformers", "peft", *libraries)}
        print(json.dumps({**self.found, "peak_bytes": resident_bytes("VmHWM"), "versions": versions}))


def trained_tokens(rows: Any) -> int:
    """Positions of a data set that have a label."""
    if "labels" in rows.column_names:
        return sum(sum(label != -100 for label in labels) for labels in rows["labels"])
    return sum(sum(mask) for mask in rows["completion_mask"])
