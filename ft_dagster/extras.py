"""Names what `pip install ft-dagster` alone leaves out: the libraries that plan, train and judge
(`[train]`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ft_dagster.errors import UserError

TRAIN = frozenset((
    "accelerate", "bitsandbytes", "datasets", "datasketch", "deepspeed", "jsonschema", "lm_eval", "peft",
    "pyarrow", "safetensors", "scipy", "threadpoolctl", "torch", "transformers", "trl",
))  # fmt: skip
BROUGHT = frozenset(("huggingface_hub", "tokenizers"))  # that these bring, and ft_dagster imports by itself


def left_out(error: ModuleNotFoundError) -> UserError | None:
    """Return what to say where a library of `[train]` is not installed; None of any other module."""
    library = (error.name or "").partition(".")[0]
    if library not in TRAIN | BROUGHT:
        return None
    problem = f"{library} is not installed here: this installation can look and audit, not plan or train"
    return UserError(problem, fix="Install what trains: pip install 'ft-dagster[train]'")


@contextmanager
def of_train() -> Iterator[None]:
    """Surround imports of these libraries, where one that is missing is a mistake of one variant and must
    stop no other. Raises UserError in its place.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        known = left_out(error)
        if known is None:
            raise
        raise known from None
