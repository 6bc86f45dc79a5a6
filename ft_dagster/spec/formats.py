"""Says which export formats a training method can have."""

from __future__ import annotations

from ft_dagster.methods import METHODS


def export_problem(method: str, format: str) -> str | None:
    """Return why `method` cannot be exported as `format` (adapter or merged), with the way out; None if it
    can.
    """
    if method not in METHODS or format in METHODS[method].exports:
        return None
    if format == "adapter":
        return f"method {method} trains the whole model and has no adapter: declare `export: merged`"
    return f"method {method} learns no weights to merge into the base: declare `export: adapter`"
