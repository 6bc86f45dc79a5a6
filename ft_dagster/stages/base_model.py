"""Records the base of a variant as an artifact: a reference, another variant's release, or a folder made for
it.

A named source without new tokens is a reference, shared by all tenants; all else is the tenant's own.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ft_dagster.data.rendering.new_tokens import check_tokens
from ft_dagster.export.derivation_request import DerivationRequest
from ft_dagster.models.base import ResolvedBase, describe_base, resolve_base
from ft_dagster.models.base_record import FILE
from ft_dagster.models.derived import MODEL, ParentRelease, check_adapter
from ft_dagster.models.load_report import unused_words
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.stage_entries import BASE_MODEL, DECLARATION, FINE_TUNED_MODEL
from ft_dagster.store import Artifact, Attempt
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import UNKNOWN, Digest, declared_as, recorded, told_by
from ft_dagster.workspace.model_files import base_of, weights_of, whole_model
from ft_dagster.workspace.stacking import refuse_unstacked
from ft_dagster.workspace.stage import Owner, Stage


def field_of(spec: VariantSpec, name: str) -> tuple[str, ...]:
    """Return the field of a declaration by which a part of base.json changed."""
    named = "source" if spec.base_model.variant is None else "variant"
    return (f"base_model.{'revision' if name == 'revision' else named}",)


@dataclass(frozen=True)
class BaseModelInputs:
    """Names the inputs: a source as it is (`base`), one with new tokens (`base_model` and those), or a
    parent's release.

    `base`: content of base.json. `base_model`: the base beneath. `mode`: how the parent is taken up.
    """

    base: Annotated[dict[str, Any], told_by(field_of)]
    keep: Annotated[bool | None, declared_as("base_model.keep")] = None
    new_tokens: Annotated[tuple[str, ...] | None, declared_as("base_model.new_tokens")] = None
    mode: Annotated[str | None, declared_as("base_model.parent_adapter")] = None
    base_model: Artifact | None = None
    model_export: Artifact | None = None
    fine_tuned_model: Digest | None = None
    source: ResolvedBase | None = recorded(default=None)
    parent: ParentRelease | None = recorded(default=None)


def inputs(view: View) -> BaseModelInputs:
    spec = view.spec.base_model
    if view.then is not None:
        return as_declared(spec, view.then)
    check_tokens(spec.new_tokens, file=view.declared_in)
    if spec.variant is None:
        if spec.new_tokens:
            origin = view.made(SOURCE)
            return BaseModelInputs(_reference(origin), new_tokens=spec.new_tokens, base_model=origin)
        return source_inputs(view)
    parent = view.past.parent(spec)
    view.verify(parent.export)
    if parent.mode != "whole":
        check_adapter(parent, view.payload(parent.export), file=view.declared_in)
    if parent.mode == "stack":
        refuse_unstacked(view.spec.method.name, view.payload(parent.export), view.declared_in)
    return BaseModelInputs(
        {"reference": str(parent.key), "revision": None},
        new_tokens=spec.new_tokens,
        mode=parent.mode,
        base_model=parent.base,
        model_export=parent.export,
        fine_tuned_model=Digest(parent.export.inputs[FINE_TUNED_MODEL.name]),
        parent=parent,
    )


def as_declared(spec: BaseModelSpec, then: Artifact) -> BaseModelInputs:
    """Return the inputs that a base made `then` would have by the declaration alone: the source's files and
    the parent's release are taken as they were found then.
    """
    known, record = then.spec, dict(then.spec.get("base", {}))
    commit, same = record.get("revision"), record.get("reference") == (spec.variant or spec.source)
    record["reference"] = spec.variant or spec.source
    if same and commit and spec.revision and len(spec.revision) == len(commit):  # a branch may have moved
        record["revision"] = spec.revision
    stacks = same and spec.variant is not None and known["mode"] != "whole"
    return BaseModelInputs(
        record,
        spec.keep if same and "keep" in known else UNKNOWN,
        spec.new_tokens or (() if "new_tokens" in known else None),
        spec.parent_adapter if stacks else UNKNOWN,
        *(UNKNOWN, UNKNOWN, UNKNOWN),
    )


def source_inputs(view: View) -> BaseModelInputs:
    """Return the inputs of a named source as it is."""
    spec = view.spec.base_model
    if view.then is not None:
        return as_declared(spec, view.then)
    found = resolve_base(
        spec,
        view.project,
        view.cache,
        declared_in=view.declared_in,
        roots=view.roots,
        bound=bool(view.policy.bases),
    )
    return BaseModelInputs(found.content, keep=spec.keep, source=found)


def build(inputs: BaseModelInputs, context: BuildContext, attempt: Attempt) -> dict[str, object]:
    parent = inputs.parent
    if inputs.source is not None:
        if inputs.source.unused:
            context.say(f"base model: {unused_words(inputs.source.unused)}")
        return _refer_to_source(inputs, inputs.source, attempt)
    if inputs.new_tokens or (parent is not None and parent.mode == "fold"):
        return _derive(inputs, context, attempt)
    assert parent is not None
    if parent.mode == "whole":
        content = describe_base(context.payload(parent.export), **inputs.base)
    else:
        content = {**read_record(context.payload(parent.base)), **inputs.base}
    return _write_record(attempt, {**content, "derived": None}, parent)


def owner(inputs: BaseModelInputs) -> Owner:
    return "variant" if inputs.source is None else "shared"


def read_record(payload: Path) -> dict[str, Any]:
    """Return the content of base.json of a base's payload."""
    record: dict[str, Any] = json.loads((payload / FILE).read_text("utf-8"))
    return record


def _refer_to_source(inputs: BaseModelInputs, source: ResolvedBase, attempt: Attempt) -> dict[str, Any]:
    if inputs.keep:
        for file in source.files:
            target = attempt.evidence / "files" / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder / file.path, target)
    return _write_record(attempt, inputs.base)


def _derive(inputs: BaseModelInputs, context: BuildContext, attempt: Attempt) -> dict[str, Any]:
    """Make a folder of its own: the base, or a whole parent, with the parent's adapter in it and new
    tokens.
    """
    parent, origin = inputs.parent, inputs.base_model
    assert origin is not None
    whole = parent is not None and parent.mode == "whole"
    start = parent.export if parent is not None and whole else origin
    folded = parent.export if parent is not None and parent.mode == "fold" else None
    new_tokens = inputs.new_tokens or ()

    def request(output: Path) -> DerivationRequest:
        return DerivationRequest(
            schema_version=1,
            base=whole_model(start, context) if whole else base_of(origin, context),
            base_digest=start.digest,
            adapter=None if folded is None else weights_of(folded, context),
            new_tokens=new_tokens,
            declared_in=str(context.declared_in),
            output=output,
        )

    made = context.run("export.derived", attempt, request, leased=False)
    content = describe_base(attempt.payload / MODEL, **inputs.base)
    derived = {
        "from": start.digest,
        "folded": None if folded is None else folded.digest,
        "new_tokens": list(new_tokens),
        "new_token_ids": made["new_token_ids"],
    }
    return _write_record(attempt, {**content, "derived": derived}, parent)


def _reference(origin: Artifact) -> dict[str, Any]:
    """Return the base's name as a person reads it."""
    recorded = origin.spec["base"]
    return {"reference": recorded["reference"], "revision": recorded["revision"]}


def _write_record(
    attempt: Attempt, content: dict[str, Any], parent: ParentRelease | None = None
) -> dict[str, Any]:
    """Write base.json; returns the figures of the manifest."""
    figures = {name: content[name] for name in ("parameters", "weights_bytes")}
    if "derived" in content:
        content = {**content, "parent": None if parent is None else parent.record}
        figures["parent"] = None if parent is None else parent.figures
    (attempt.payload / FILE).write_text(json.dumps(content, indent=1, sort_keys=True), "utf-8")
    return figures


FIELDS = ("base_model", "method.name")
SOURCE = Stage(
    replace(BASE_MODEL, on_demand=True),
    reads=(DECLARATION,),
    fields=FIELDS,
    inputs=source_inputs,
    build=build,
    owner=owner,
)
STAGE = Stage(
    BASE_MODEL,
    reads=(DECLARATION, BASE_MODEL),
    fields=FIELDS,
    inputs=inputs,
    build=build,
    asks=("parent",),
    owner=owner,
    programs=("export.derived",),
)
