"""Says how long an example may be, in tokens, and what the base was trained to read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_dagster.model_files.weights import CONFIG
from ft_dagster.planning.methods.defaults import MAX_LENGTH
from ft_dagster.spec import VariantSpec

# What architectures call their context: most by the first name.
CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "model_max_length",
    "context_length",
    "seq_length",
)
BY_FACTOR = ("linear", "dynamic")  # scalings that leave the context in config.json as it was trained


def context_length(base_folder: Path) -> int | None:
    """Return for how many tokens config.json says that the base was made; None where it does not say.

    A base whose positions are scaled (`rope_scaling`) reads `factor` times those that it was trained on.
    """
    config = json.loads((base_folder / CONFIG).read_text("utf-8"))
    text = _part(config, "text_config") or config
    named = next(filter(None, (_count(text.get(name)) for name in CONTEXT)), None)
    if named is None:
        return None
    scaling = _part(text, "rope_scaling") or _part(text, "rope_parameters")
    unscaled = named if scaling.get("rope_type", scaling.get("type")) in BY_FACTOR else 0
    trained_on = _count(scaling.get("original_max_position_embeddings")) or unscaled
    return int(max(named, trained_on * _count(scaling.get("factor"))))


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _count(value: object) -> float:
    return value if isinstance(value, int | float) and 1 <= value < math.inf else 0


def longest_by_default(base_folder: Path) -> int:
    """Return the longest example where the declaration does not say."""
    return min(MAX_LENGTH.value, context_length(base_folder) or MAX_LENGTH.value)


def longest_example(spec: VariantSpec, base_folder: Path) -> int:
    """Return the longest example that is declared, or the default."""
    return spec.training.max_length or longest_by_default(base_folder)


def beyond_context(spec: VariantSpec, base_folder: Path) -> list[str]:
    """Warn of examples that are declared longer than what the base was made for."""
    declared, most = spec.training.max_length, context_length(base_folder)
    if declared is None or most is None or declared <= most:
        return []
    return [
        f"training.max_length {declared:,} is beyond the {most:,} tokens that the base was made for: it has "
        f"not learned to read what comes after them; say at most {most:,}"
    ]
