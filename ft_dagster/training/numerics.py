"""Makes a GPU add up in a fixed order, and multiply fp32 in fp32. A CPU does both by itself."""

from __future__ import annotations

import os

WORKSPACE, FIXED = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")


def set_cublas_workspace() -> None:
    """Set what cuBLAS reads when its context opens, and without which torch refuses to add in a fixed order.
    Another value than the two that torch takes is put aside.
    """
    if os.environ.get(WORKSPACE) not in FIXED:
        os.environ[WORKSPACE] = FIXED[0]


def set_numerics(*, deterministic: bool) -> None:
    """Set the numerics of this process on GPUs. `deterministic`: kernels that add in a fixed order, so that a
    training that was interrupted has the bits of one that was not; what has none raises RuntimeError. Merely
    to be warned would not do: attention's backward pass then keeps adding in any order.

    TF32 stays off whatever the environment says: transformers multiplies positions by frequencies in fp32,
    and TF32 has no whole number between 2048 and 2050 (transformers issue 48428).
    """
    import torch

    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it did not write
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
