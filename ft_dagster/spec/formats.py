"""Which export formats a training method can have."""

from __future__ import annotations

_NO_ADAPTER = ("full",)
_NOT_MERGED = ("prompt_tuning", "prefix_tuning")


def export_problem(method: str, format: str) -> str | None:
    """Why `method` cannot be exported as `format` (adapter or merged), with the way out; None if it can."""
    if method in _NO_ADAPTER and format == "adapter":
        return f"method {method} trains the whole model and has no adapter: declare `export: merged`"
    if method in _NOT_MERGED and format == "merged":
        return f"method {method} learns no weights to merge into the base: declare `export: adapter`"
    return None
