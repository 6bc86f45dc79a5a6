"""Holds the keys and values that a model remembers of a text, so that what follows it is computed alone.

They stand in memory that is there from the start, where transformers copies all of them at each token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ft_dagster.evaluation.models.load import inner_model, virtual_tokens


class RoomyLayer(DynamicLayer):
    """Holds a layer's keys and values, [rows, heads, positions, size] each, in memory for `room`
    positions.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._memory: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        new = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(*new)
            self._memory = tuple(each.new_empty(*each.shape[:2], self._room, each.shape[3]) for each in new)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        for memory, each in zip(self._memory, new, strict=True):
            memory[:, :, start:end] = each
        self.keys, self.values = (memory[:, :, :end] for memory in self._memory)
        return self.keys, self.values

    def place(self, rows: Sequence[int], of: int, read: RoomyLayer, before: int, end: int) -> None:
        """Take what was read of some of `of` rows: its first `before` positions, and the rest up to `end`."""
        if not self.is_initialized:
            self.lazy_initialization(read.keys, read.values)
            shapes = [(of, each.shape[1], self._room, each.shape[3]) for each in (read.keys, read.values)]
            self._memory = (read.keys.new_zeros(shapes[0]), read.values.new_zeros(shapes[1]))
        start = end - (read.get_seq_length() - before)
        for memory, each in zip(self._memory, (read.keys, read.values), strict=True):
            memory[rows, :, :before] = each[:, :, :before]
            memory[rows, :, start:end] = each[:, :, before:]
        self.keys, self.values = (memory[:, :, :end] for memory in self._memory)

    def batch_select_indices(self, indices: Tensor) -> None:
        end = self.get_seq_length()
        self._memory = tuple(memory[indices] for memory in self._memory)
        self.keys, self.values = (memory[:, :, :end] for memory in self._memory)


def taken_by(model: Any) -> Collection[str]:
    """Return the names of what the model's forward pass takes."""
    return inspect.signature(inner_model(model).forward).parameters.keys()


def cache_layers(model: Any) -> list[Any] | None:
    """Return empty cache layers of the model; None where only its own `generate` knows how it remembers.

    A window over the last tokens may see no padding between a learned prompt and the text. GPT-Neo counts its
    window by places in memory, which its cache does not know.
    """
    taken = taken_by(model)
    if "local" in getattr(inner_model(model).config, "attention_layers", ()):
        return None
    if "position_ids" not in taken or not {"cache", "past_key_values"} & set(taken):
        return None
    layers: list[Any] = DynamicCache(config=inner_model(model).config).layers
    known = {DynamicLayer} if virtual_tokens(model) else {DynamicLayer, DynamicSlidingWindowLayer}
    return layers if {type(layer) for layer in layers} <= known else None


def are_windowed(layers: Sequence[Any]) -> bool:
    """Say whether a layer forgets what fell out of a window."""
    return any(type(layer) is not DynamicLayer for layer in layers)


def attends_to_every_token(model: Any) -> bool:
    """Say whether each layer looks back at all tokens by their positions, and at nothing else: no window, no
    recurrent state, no learned prompt, beside which PEFT takes no positions and masks of ours.
    """
    layers = cache_layers(model)
    return layers is not None and not are_windowed(layers) and not virtual_tokens(model)


def remembers_exactly(model: Any) -> bool:
    """Say whether keys and values of a beginning are those that the whole text has, whatever follows it: not
    where positions turn by the length of the text, nor in int8, whose outliers are those of a whole batch.
    """
    inner = inner_model(model)
    rotation = getattr(inner.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    turns = {each.get("rope_type") for each in (rotation, *rotation.values()) if isinstance(each, dict)}
    by_length, in_int8 = turns & {"dynamic", "longrope"}, getattr(inner, "is_loaded_in_8bit", False)
    return attends_to_every_token(model) and not by_length and not in_int8


def forward_of(model: Any) -> Callable[..., Tensor]:
    """Return forward(cache, keep, **inputs): the logits of the last `keep` positions, [rows, keep,
    vocabulary].
    """
    inner, cuts = inner_model(model), "logits_to_keep" in taken_by(model)

    def forward(cache: Any, keep: int, **inputs: Any) -> Tensor:
        kept = {"logits_to_keep": keep} if cuts else {}
        logits: Tensor = inner(**inputs, **_remembers(model, cache), **kept).logits
        return logits[:, -keep:]

    return forward


def remembered(model: Any, begun: Any, *, rows: int, more: int) -> dict[str, Any]:
    """Return the inputs by which `rows` rows of `more` tokens each go on after what `begun` holds."""
    room = begun.get_seq_length() + more
    return _remembers(model, cache_of_rows(begun, begun.layers, rows=rows, room=room))


def _remembers(model: Any, cache: Any) -> dict[str, Any]:
    return {"cache" if "cache" in taken_by(model) else "past_key_values": cache, "use_cache": True}


def begin(model: Any, forward: Callable[..., Tensor], shared: Sequence[int]) -> Any:
    """Return a cache of one row with the learned prompt or prefix, and after it the tokens `shared`."""
    cache = DynamicCache()
    if virtual_tokens(model):
        learned = model.get_prompt(batch_size=1)
        if isinstance(learned, Tensor):
            forward(cache, 1, inputs_embeds=learned.to(inner_model(model).dtype))
        else:
            cache = learned
    if shared:
        forward(cache, 1, input_ids=torch.tensor([list(shared)], device=model.device))
    return cache


def cache_of_rows(begun: Any, layers: Sequence[Any], *, rows: int, room: int) -> Cache:
    """Return a cache for `rows` rows that each begin so."""
    roomy = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in layers]
    for layer, (keys, values, *_) in zip(roomy, begun, strict=False):
        layer.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))
    return Cache(layers=roomy)
