"""Look at a model in the middle of its training without leaving a trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

GENERATION = "generation_config"  # PEFT's wrapper has none of its own and passes on that of the model inside
ABSENT = object()


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Put the model into eval mode; after this context random states, modes, buffers, cache flag and
    generation settings are what they were, to the bit. Inside, gradients must not be needed.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    generation = [(holder, vars(holder).get(GENERATION, ABSENT)) for holder in (model, inner)]
    config, cached = inner.config, inner.config.use_cache
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    states = random.getstate(), np.random.get_state()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        config.use_cache = cached
        for holder, settings in generation:
            vars(holder).pop(GENERATION, None)
            if settings is not ABSENT:
                vars(holder)[GENERATION] = settings
        for module, mode in modes:
            module.training = mode
        for module, kept in buffers:  # some rotary embeddings grow theirs, under inference mode for good
            module._buffers.update(kept)
