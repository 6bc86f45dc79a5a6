"""`python -m stages.packed MODEL MIXTURE DEVICE DTYPE`: logits of packed examples against each of them alone.

By the attention of a training step. `difference` and `neighbour` (had positions not restarted) are over the
largest logit.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

EXAMPLES = 6


def main(model: str, mixture: str, device: str, dtype: str) -> int:
    import torch

    from ft_dagster.training.batches.attention import ENDS, given, packed
    from ft_dagster.training.batches.batches import Collator
    from ft_dagster.training.batches.mixture import open_split
    from ft_dagster.training.methods.base import load_base

    net = load_base(Path(model), "bf16" if dtype == "bfloat16" else "fp32").to(device).eval()
    with tempfile.TemporaryDirectory() as scratch:
        examples = open_split(Path(mixture), "train", Path(scratch))
        assert examples is not None
        collate = Collator(examples, pad_token_id=0, max_length=0)  # no row is padded

        def logits(ordinals: list[int], *, restart: bool = True) -> Any:
            batch = collate([{"bin": ordinals}])
            ids, positions = batch["input_ids"].to(device), batch["position_ids"].to(device)
            if not restart:
                positions = torch.arange(ids.shape[1], device=device)[None]
            batch[ENDS] = batch[ENDS].to(device)
            with torch.no_grad(), packed(net, batch, off=not restart):
                return net(input_ids=ids, position_ids=positions, **given(batch)).logits[0].float()

        ordinals = list(range(EXAMPLES))
        together, mixed = logits(ordinals), logits(ordinals, restart=False)
        apart = torch.cat([logits([i])[: int(examples.lengths[i])] for i in ordinals])
    largest = float(apart.abs().max())
    found = {"difference": off(together, apart) / largest, "neighbour": off(mixed, apart) / largest}
    print(json.dumps({**found, "positions": len(apart)}))
    return 0


def off(one: Any, other: Any) -> float:
    return float((one[: len(other)] - other).abs().max())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
