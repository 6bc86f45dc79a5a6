"""Collects the training methods, one file each, all of the same shape; a declaration's `method` names one.

A file with a `METHOD` is one: nothing lists them. How it computes is in `training/methods/<name>.py`.
"""

from __future__ import annotations

import importlib
import pkgutil

from ft_dagster.errors import UserError
from ft_dagster.methods.method import Method

__all__ = ["METHODS", "Method", "method_of", "usual_method"]


def _found() -> dict[str, Method]:
    """Return the methods by name, in their order."""
    modules = (importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__))
    entries: list[Method] = [module.METHOD for module in modules if hasattr(module, "METHOD")]
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.order)}


METHODS = _found()


def method_of(name: str | None) -> Method:
    """Return what is known of the method of this name. Raises UserError."""
    if name is None or name not in METHODS:
        raise UserError(
            "no such training method", field="method.name", value=name, fix=f"Known: {', '.join(METHODS)}"
        )
    return METHODS[name]


def usual_method() -> Method:
    """Return the method to take when nothing else decides."""
    return min(METHODS.values(), key=lambda entry: entry.usual.value)
