"""What `pip install ft-dagster` alone leaves out: the libraries that plan, train and judge (`[train]`)."""

from __future__ import annotations

from ft_dagster.errors import UserError

TRAIN = frozenset((
    "accelerate", "bitsandbytes", "datasets", "datasketch", "deepspeed", "lm_eval", "matplotlib", "peft",
    "safetensors", "scipy", "threadpoolctl", "torch", "transformers", "trl",
))  # fmt: skip


def left_out(error: ModuleNotFoundError) -> UserError | None:
    """What to say where a library of `[train]` is not installed; None of any other module."""
    library = (error.name or "").partition(".")[0]
    if library not in TRAIN:
        return None
    problem = f"{library} is not installed here: this installation can look and audit, not plan or train"
    return UserError(problem, fix="Install what trains: pip install 'ft-dagster[train]'")
