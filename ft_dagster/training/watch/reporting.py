"""Reports the curves to tensorboard, wandb or mlflow (`training.report_to`), through transformers' own
callbacks.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError

# Name -> transformers' callback. Each library must be installed; none is a dependency of this package.
CALLBACKS = {"tensorboard": "TensorBoardCallback", "wandb": "WandbCallback", "mlflow": "MLflowCallback"}
# What the platform may have set for all trainings: read once, since several members share a process.
GIVEN = {name: os.environ.get(name) for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI")}


class Reports:
    """Writes the curves of one training below its evidence folder unless the environment says where."""

    def __init__(self, names: Sequence[str], evidence: Path, variant: str) -> None:
        """Raises UserError where a library is unknown or not installed."""
        for name in names:
            _check(name)
        for name in names:
            os.environ.update(_environment(name, evidence, variant))
        self._callbacks = [_made(name) for name in names]
        self._trainer: Any = None

    def attach(self, trainer: Any) -> None:
        """Let the callbacks see the training begin and end."""
        for callback in self._callbacks:
            trainer.add_callback(callback)
        self._trainer = trainer

    def write(self, values: dict[str, float | int | None]) -> None:
        """Write one point of each curve; names that begin with "eval_" stand in a group of their own."""
        known = {name: value for name, value in values.items() if value is not None}
        for callback in self._callbacks:
            callback.on_log(
                self._trainer.args, self._trainer.state, self._trainer.control, logs=known,
                model=self._trainer.model,
            )  # fmt: skip


def _check(name: str) -> None:
    if name not in CALLBACKS:
        raise UserError(
            "cannot be reported to",
            field="training.report_to",
            value=name,
            fix=f"Known: {', '.join(CALLBACKS)}",
        )
    if importlib.util.find_spec(name) is None:
        raise UserError(
            "is not installed here",
            field="training.report_to",
            value=name,
            fix=f"pip install {name}, or leave it out",
        )


def _environment(name: str, evidence: Path, variant: str) -> dict[str, str]:
    """Return what this reporter reads of the environment."""
    if name == "tensorboard":
        return {"TENSORBOARD_LOGGING_DIR": str(evidence / "tensorboard")}
    if name == "wandb":
        return {
            "WANDB_MODE": GIVEN["WANDB_MODE"] or "offline",
            "WANDB_DIR": str(evidence),
            "WANDB_NAME": variant,
        }
    database = f"sqlite:///{evidence.absolute() / 'mlflow.db'}"  # it takes plain folders no more
    return {
        "MLFLOW_TRACKING_URI": GIVEN["MLFLOW_TRACKING_URI"] or database,
        "MLFLOW_EXPERIMENT_NAME": variant,
    }


def _made(name: str) -> Any:
    from transformers import integrations

    return getattr(integrations, CALLBACKS[name])()
