"""The base of a variant as an artifact: a reference, another variant's release, or a folder made for it."""

import json
import shutil
from pathlib import Path
from typing import Any

from ft_dagster.assets.bench import SHARED, Bench
from ft_dagster.data.base import describe_base, resolve_base
from ft_dagster.data.derived import MODEL, Parent, base_folder, check_adapter, released_parent
from ft_dagster.data.new_tokens import check_tokens
from ft_dagster.data.quantize import quantization_of
from ft_dagster.errors import UserError
from ft_dagster.store import Artifact, Attempt, verify

STAGE = "base_model"
STACKED = {"lora": None, "qlora": "nf4", "lora_8bit": "int8"}  # method -> how it quantizes the base


def make_base(bench: Bench) -> Artifact:
    """The base_model artifact that the declaration asks for. Raises UserError.

    A named source without new tokens is a reference, shared by all tenants; all else is the tenant's own.
    """
    spec = bench.spec.base_model
    check_tokens(spec.new_tokens, file=bench.declared_in)
    if spec.variant is None:
        source = _from_source(bench)
        return _derived(bench, source, None) if spec.new_tokens else source
    parent = released_parent(bench.store, bench.key, spec, file=bench.declared_in)
    verify(bench.store, parent.export, bench.cache)
    if parent.mode != "whole":
        check_adapter(parent, bench.payload(parent.export), file=bench.declared_in)
    if parent.mode == "stack":
        refuse_unstacked(bench, bench.spec.method.name, bench.payload(parent.export))
    if parent.mode == "fold" or spec.new_tokens:
        return _derived(bench, parent.base, parent)
    return _referred(bench, parent)


def refuse_unstacked(bench: Bench, method: str, adapter: Path) -> None:
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
        file=bench.declared_in,
        field="base_model.parent_adapter",
        value="stack",
        fix=f"Declare `parent_adapter: fold`, or the method {' or '.join(methods)}",
    )


def read_record(bench: Bench, base: Artifact) -> dict[str, Any]:
    """The content of base.json."""
    record: dict[str, Any] = json.loads((bench.payload(base) / "base.json").read_text("utf-8"))
    return record


def _from_source(bench: Bench) -> Artifact:
    spec = bench.spec.base_model
    base = resolve_base(spec, bench.project, bench.cache, declared_in=bench.declared_in)

    def build(attempt: Attempt) -> dict[str, Any]:
        if spec.keep:
            for file in base.files:
                target = attempt.evidence / "files" / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(base.folder / file.path, target)
        return _write_record(attempt, base.content)

    return bench.make(STAGE, build, spec={"base": base.content, "keep": spec.keep}, prefix=SHARED)


def _derived(bench: Bench, origin: Artifact, parent: Parent | None) -> Artifact:
    """A folder of its own: the origin, or a whole parent, with the parent's adapter in it and new tokens."""
    spec = bench.spec.base_model
    whole = parent is not None and parent.mode == "whole"
    start = parent.export if parent is not None and whole else origin
    folded = parent.export if parent is not None and parent.mode == "fold" else None

    def run(output: Path) -> dict[str, Any]:
        folder = (
            bench.payload(start) if whole else base_folder(bench.store, origin, bench.project, bench.cache)
        )
        return {
            "schema_version": 1,
            "base": str(folder),
            "base_digest": start.digest,
            "adapter": None if folded is None else str(bench.payload(folded)),
            "new_tokens": list(spec.new_tokens),
            "declared_in": str(bench.declared_in),
            "output": str(output),
        }

    def build(attempt: Attempt) -> dict[str, Any]:
        made = bench.produce("export.derived", attempt, run, leased=False)
        content = describe_base(attempt.payload / MODEL, **_reference(origin, parent))
        derived = {
            "from": start.digest,
            "folded": None if folded is None else folded.digest,
            "new_tokens": list(spec.new_tokens),
            "new_token_ids": made["new_token_ids"],
        }
        return _write_record(attempt, {**content, "derived": derived}, parent)

    return _make(bench, build, origin, parent)


def _referred(bench: Bench, parent: Parent) -> Artifact:
    """No folder of its own: the parent's whole model, or the parent's base beneath its adapter."""

    def build(attempt: Attempt) -> dict[str, Any]:
        if parent.mode == "whole":
            content = describe_base(bench.payload(parent.export), **_reference(parent.base, parent))
        else:
            content = {**read_record(bench, parent.base), **_reference(parent.base, parent)}
        return _write_record(attempt, {**content, "derived": None}, parent)

    return _make(bench, build, parent.base, parent)


def _make(bench: Bench, build: Any, origin: Artifact, parent: Parent | None) -> Artifact:
    spec = {
        "base": _reference(origin, parent),
        "new_tokens": list(bench.spec.base_model.new_tokens),
        "mode": None if parent is None else parent.mode,
    }
    inputs = {STAGE: origin.digest} if parent is None else parent.inputs
    return bench.make(STAGE, build, inputs=inputs, spec=spec)


def _reference(origin: Artifact, parent: Parent | None) -> dict[str, Any]:
    """What a person reads as the base's name."""
    if parent is not None:
        return {"reference": str(parent.key), "revision": None}
    recorded = origin.predicate["spec"]["base"]
    return {"reference": recorded["reference"], "revision": recorded["revision"]}


def _write_record(attempt: Attempt, content: dict[str, Any], parent: Parent | None = None) -> dict[str, Any]:
    """Write base.json; returns the figures of the manifest."""
    figures = {name: content[name] for name in ("parameters", "weights_bytes")}
    if "derived" in content:
        content = {**content, "parent": None if parent is None else parent.record}
        figures["parent"] = None if parent is None else parent.figures
    (attempt.payload / "base.json").write_text(json.dumps(content, indent=1, sort_keys=True), "utf-8")
    return figures
