"""Says how long an example may be, in tokens, and what the base was trained to read."""

from __future__ import annotations

import json
from pathlib import Path

from ft_dagster.model_files.weights import CONFIG
from ft_dagster.planning.methods.defaults import MAX_LENGTH
from ft_dagster.spec import VariantSpec


def context_length(base_folder: Path) -> int | None:
    """Return for how many tokens config.json says that the base was made; None where it does not say.

    A base whose positions are scaled (`rope_scaling`) reads `factor` times those that it was trained on.
    """
    config = json.loads((base_folder / CONFIG).read_text("utf-8"))
    text = config.get("text_config") or config
    named = text.get("max_position_embeddings")
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    trained_on, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    scaled = trained_on * factor if trained_on and factor else 0
    return max(int(named), int(scaled)) if named else None


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
