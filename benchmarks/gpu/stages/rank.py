"""What a rank sees: it holds its share of the lease, then says which devices torch shows it."""

from __future__ import annotations

import json
import os

from ft_dagster.launch.leases import hold_as_rank

hold_as_rank()

import torch  # noqa: E402  # after the lease, as a rank does

print(
    json.dumps(
        {
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "count": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }
    )
)
