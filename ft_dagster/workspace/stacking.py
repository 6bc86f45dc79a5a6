"""Prepares a base with another variant's adapter beneath the one to be trained: which methods may have
one.
"""

from __future__ import annotations

from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS
from ft_dagster.models.quantize import quantization_of
from ft_dagster.store import Artifact
from ft_dagster.training.contract import Base
from ft_dagster.workspace.build_context import BuildContext

STACKED = {name: known.quantization for name, known in METHODS.items() if known.is_lora}


def refuse_unstacked(method: str, adapter: Path, declared_in: Path) -> None:
    """Raises UserError unless `method` trains a LoRA on a base quantized as the parent's `adapter` had it.

    `auto` passes: the plan will say which method it is.
    """
    if method == "auto":
        return
    quantized = quantization_of(adapter)
    if method not in STACKED:
        problem = f"{method} trains no LoRA to stack on the parent's adapter"
    elif STACKED[method] != quantized:
        now = STACKED[method] or "not quantized"
        problem = f"the parent was trained on a base that was {quantized or 'not quantized'}; {method}: {now}"
    else:
        return
    methods = [name for name, kind in STACKED.items() if kind == quantized]
    raise UserError(
        problem,
        file=declared_in,
        field="base_model.parent_adapter",
        value="stack",
        fix=f"Declare `parent_adapter: fold`, or the method {' or '.join(methods)}",
    )


def trained_base(context: BuildContext, base: Artifact, method: str) -> Base:
    """Return the base as the trainer takes it. Raises UserError where `method` cannot be stacked on a
    parent's adapter.
    """
    parent = context.parent_adapter(base)
    if parent is not None:
        refuse_unstacked(method, parent.adapter, context.declared_in)
    return Base(
        folder=context.base_folder(base),
        digest=base.digest,
        new_token_ids=tuple(context.new_token_ids(base)),
        parent=parent,
        kept_in=context.bases_kept_in,
    )
