"""Replicates a model on several ranks, whose gradients DistributedDataParallel adds up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ft_dagster.training import ranks

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def may_be_unused(model: Any) -> bool:
    """Say whether a trained weight may get no gradient in a step: of an expert to which no token goes, or of
    a part that reads pictures or sound. All others do in every method, a rank of padding alone included, and
    to look for some costs a walk of the graph.
    """
    text = model.config.get_text_config()
    return text is not model.config or any(getattr(text, name, None) for name in EXPERTS)


def rebuilds_buckets(model: Any) -> bool:
    """Say whether DDP rebuilds the buckets of its gradients after a first backward pass, and the ranks' sum
    depends on that: from three on, what is added first follows from where a gradient lies.
    """
    return (
        isinstance(model, DistributedDataParallel) and not model.find_unused_parameters and ranks.world() > 2
    )


@contextmanager
def bucket_warm_up(model: DistributedDataParallel) -> Iterator[None]:
    """Surround one throw-away forward and backward pass, which leaves nothing behind but rebuilt buckets. A
    training that goes on from a checkpoint must start with them, as one that went through has them.
    """
    adds_up = model.require_backward_grad_sync
    model.require_backward_grad_sync = True
    gpu = [torch.cuda.current_device()] if model.device_type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=gpu):
            yield
    finally:
        model.require_backward_grad_sync = adds_up
        model.zero_grad()
