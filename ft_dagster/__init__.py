"""Takes tenants' declarations to fine-tuned, judged, released language models.

Promised, and kept until a release that the CHANGELOG names, are the names of `__all__`, the command line,
the fields of declarations and settings, and the stored formats. Everything else of this package is private
and may change in any release.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft_dagster.build import build_defs
    from ft_dagster.component import FineTuning
    from ft_dagster.errors import UserError
    from ft_dagster.settings import Settings, load_settings
    from ft_dagster.spec import Declarations, VariantKey, VariantSpec
    from ft_dagster.stages.chain import CHAIN, run_chain
    from ft_dagster.store import Artifact, Store
    from ft_dagster.workspace.stage import Stage
    from ft_dagster.workspace.workspace import Workspace

__version__: str

_DEFINED_IN = {  # imported when first asked for, so that this package costs nothing to import
    "CHAIN": "stages.chain",
    "Artifact": "store",
    "Declarations": "spec",
    "FineTuning": "component",
    "Settings": "settings",
    "Stage": "workspace.stage",
    "Store": "store",
    "UserError": "errors",
    "VariantKey": "spec",
    "VariantSpec": "spec",
    "Workspace": "workspace.workspace",
    "build_defs": "build",
    "load_settings": "settings",
    "run_chain": "stages.chain",
}
__all__ = [
    "CHAIN",
    "Artifact",
    "Declarations",
    "FineTuning",
    "Settings",
    "Stage",
    "Store",
    "UserError",
    "VariantKey",
    "VariantSpec",
    "Workspace",
    "__version__",
    "build_defs",
    "load_settings",
    "run_chain",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ft-dagster")
    if name in _DEFINED_IN:
        return getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names by which `dg` finds the component."""
    return sorted({*globals(), *__all__})
