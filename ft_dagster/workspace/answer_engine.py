"""Chooses what writes the answers that are judged: transformers, or vLLM where it is installed and can.

Base and tuned model are asked by one engine, so it is in the key of each evaluation. It is chosen by the
plan, before either is asked: by how a model will be trained, it is known what vLLM will not load.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.loaded_by_vllm import not_loaded
from ft_dagster.methods import Method, method_of
from ft_dagster.settings import FILE, Settings
from ft_dagster.workspace.keyed_inputs import Host, recorded

OWN_BYTES = 12e9  # of a GPU beside two copies of the base: batches, keys and values of the answers
WIDTH = {"bfloat16": 2, "float32": 4}  # bytes of a weight


@dataclass(frozen=True)
class Engine:
    """Names an engine. `name`: in the key, but None, which is transformers. `python`: of the environment that
    vLLM is in. `reason`: why transformers answer where vLLM is installed.
    """

    name: Host[Literal["vllm"] | None] = None
    python: Path | None = recorded(default=None)
    reason: str | None = recorded(default=None)


TRANSFORMERS = Engine()
_found: set[Path] = set()  # where vLLM is, as far as this process has looked


def may_be_vllm(settings: Settings, device: str) -> bool:
    """Say whether the settings and this host leave to vLLM what it can. Raises UserError as
    `refuse_absent`.
    """
    refuse_absent(settings, device)
    asked = settings.evaluation.engine
    return asked == "vllm" or (asked == "auto" and device == "cuda" and _has_vllm(settings.vllm_python))


def refuse_absent(settings: Settings, device: str) -> None:
    """Raises UserError where vLLM is declared, or on a GPU its environment is, and is not installed."""
    python, named = settings.vllm_python, settings.evaluation.vllm
    asked = settings.evaluation.engine
    declared = asked == "vllm" or (asked == "auto" and device == "cuda" and named is not None)
    if declared and not _has_vllm(python):
        raise UserError(
            f"vLLM is not installed for {python}",
            file=settings.project / FILE,
            field="evaluation.engine" if named is None else "evaluation.vllm",
            value=asked if named is None else str(named),
            fix="Install it in an environment of its own and name its Python in `evaluation.vllm`, or set "
            "`evaluation.engine: transformers`",
        )


def not_by_vllm(method: Mapping[str, Any], *, new_tokens: bool) -> str | None:
    """Say why vLLM does not answer for what is trained by this method of a plan; None: it does. `new_tokens`:
    some were added to its base, or to one beneath that.
    """
    known = method_of(method["name"])
    if known.quantized:
        return "the adapter stands on a quantized base"
    if new_tokens:
        return "tokens were added to the base, and vLLM cannot have it answer as if it had none"
    reasons = not_loaded(_adapter_of(known, method)) if known.freezes else []
    return f"vLLM does not load the adapter: it {', '.join(reasons)}" if reasons else None


def _adapter_of(known: Method, method: Mapping[str, Any]) -> dict[str, object]:
    """Return what its adapter_config.json will say."""
    return {**method, "r": method.get("rank"), "peft_type": "LORA" if known.is_lora else known.name.upper()}


def without_room(parameters: int, dtype: str, memory_bytes: int | None) -> str | None:
    """Say why a GPU does not hold the base twice, for transformers and for vLLM; None: it does."""
    if memory_bytes is None or 2 * parameters * WIDTH[dtype] + OWN_BYTES <= memory_bytes:
        return None
    return "two copies of the base, for vLLM and for transformers, do not fit the device"


def _has_vllm(python: Path) -> bool:
    """Say whether an environment has vLLM, asked again until it is found: it may be installed while this
    process lives.
    """
    if python in _found:
        return True
    asked = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        done = subprocess.run([python, "-I", "-c", asked], capture_output=True, check=False)
    except OSError:
        return False
    if done.returncode == 0:
        _found.add(python)
    return done.returncode == 0
