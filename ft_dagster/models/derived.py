"""Finds bases that had to be made: which release they start from, and where their folder lies.

base.json of such a base says so: `derived` (from, new_tokens, new_token_ids, folded) where a folder was
made, `parent` (variant, export, weights, base, mode) where it starts from another variant's release. The
parent's version and the places of its artifacts are in the manifest's figures: what is the same is found
under the same digest, whatever its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import StoredGraph, input_of, released_export, walk
from ft_dagster.lineage.release import history, production
from ft_dagster.lineage.served import rollbacks, versions_in
from ft_dagster.lineage.stale import StaleCause
from ft_dagster.methods import METHODS
from ft_dagster.models.base import locate_base
from ft_dagster.models.base_record import BaseRecord, Mode
from ft_dagster.provenance.manifest import variant_of
from ft_dagster.spec.keys import VariantKey
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, MODEL_EXPORT
from ft_dagster.store.artifacts import Artifact, verify_artifact
from ft_dagster.store.blobs import Store

FIELD = "base_model.variant"
MODEL = "model"  # the folder of a derived base, inside its payload
ADAPTER_CONFIG = "adapter_config.json"


class StartedFrom(TypedDict):
    """Names, in the figures of a base, the release that it starts from. `places`: stage -> [prefix, key]."""

    variant: str
    version: int
    mode: Mode
    places: dict[str, list[str]]


def started_from(base: Artifact) -> StartedFrom | None:
    """Return the release of a base_model artifact; None of one that starts from no release."""
    parent: StartedFrom | None = base.figures.get("parent")
    return parent or None


@dataclass(frozen=True)
class ParentRelease:
    """Names the release that a base starts from: its export, and the base of the export's weights.

    `mode`: the export is an adapter to `fold` or to `stack`, or a `whole` model.
    """

    key: VariantKey
    version: int
    export: Artifact
    base: Artifact
    mode: Mode

    @property
    def record(self) -> dict[str, object]:
        """Return the release as base.json has it."""
        return {
            "variant": str(self.key),
            "export": self.export.digest,
            "weights": self.export.inputs[FINE_TUNED_MODEL.name],
            "base": self.base.digest,
            "mode": self.mode,
        }

    @property
    def inputs(self) -> dict[str, str]:
        return {
            MODEL_EXPORT.name: self.export.digest,
            FINE_TUNED_MODEL.name: self.export.inputs[FINE_TUNED_MODEL.name],
            BASE_MODEL.name: self.base.digest,
        }

    @property
    def figures(self) -> StartedFrom:
        places = {MODEL_EXPORT.name: self.export.place, BASE_MODEL.name: self.base.place}
        return {
            "variant": str(self.key),
            "version": self.version,
            "mode": self.mode,
            "places": {stage: [place.prefix, place.key] for stage, place in places.items()},
        }


def parent_prefix(child: VariantKey, parent: VariantKey) -> str:
    """Return where a parent's artifacts lie: always within the child's own tenant."""
    return f"tenants/{child.tenant}/{parent.variant}"


def released_parent(
    store: Store, child: VariantKey, spec: BaseModelSpec, *, file: object = None
) -> ParentRelease:
    """Return the release in production of the variant that `spec` names.

    Raises UserError where there is none, or its artifacts are gone.
    """
    key = VariantKey.parse(spec.variant or "", file=file)
    prefix = parent_prefix(child, key)
    entry = production(store, prefix)
    if entry is None:
        fix = f"Run it (`ft-dagster run {key}`), or release a version of it; then run {child} again"
        raise UserError(
            "no version of this variant is in production", file=file, field=FIELD, value=str(key), fix=fix
        )
    export = released_export(store, prefix, entry)
    if export is None:
        raise _gone(key, entry.version, "its export", file)
    base = input_of(StoredGraph(store), export, BASE_MODEL.name)
    if base is None:
        raise _gone(key, entry.version, "the record of its base", file)
    adapter = any(part["path"] == ADAPTER_CONFIG for part in export.predicate["payload"])
    if not adapter and spec.parent_adapter == "stack":
        raise UserError(
            f"the release of {key} is a whole model: there is no adapter to stack on",
            file=file,
            field="base_model.parent_adapter",
            value="stack",
            fix="Leave parent_adapter out",
        )
    return ParentRelease(key, entry.version, export, base, spec.parent_adapter if adapter else "whole")


def check_adapter(parent: ParentRelease, adapter: Path, *, file: object = None) -> None:
    """Raises UserError where the parent's adapter (its payload folder) cannot be folded, or stacked."""
    config = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
    if config.get("peft_type") != "LORA":
        others = ", ".join(name for name, known in METHODS.items() if "merged" in known.exports)
        raise UserError(
            f"{parent.key} is a learned prompt or prefix: it changes no weights to start from",
            file=file,
            field=FIELD,
            value=str(parent.key),
            fix=f"Train the parent by one of {others}",
        )
    keeps = {
        "DoRA": config.get("use_dora"),
        "trained tokens": config.get("trainable_token_indices"),
        "whole trained modules": config.get("modules_to_save"),
    }
    kept = [name for name, used in keeps.items() if used]
    if parent.mode == "stack" and kept:
        raise UserError(
            f"the adapter of {parent.key} has {', '.join(kept)}: no other adapter can be stacked on it",
            file=file,
            field="base_model.parent_adapter",
            value="stack",
            fix="Declare `parent_adapter: fold`",
        )


def base_folder(store: Store, base: Artifact, project: Path, cache: Path, *, verify: bool = False) -> Path:
    """Return the folder of a base_model artifact on this machine, its files checked. Raises UserError.

    `verify`: every file is hashed again, also one that looks untouched.
    """
    if verify:
        verify_artifact(store, base, cache)
    payload = base.folder(store, cache) / "payload"
    record = BaseRecord.read(payload)
    if record.derived:
        return payload / MODEL
    if record.parent is None:
        return locate_base(record, project, cache, verify=verify)
    if record.parent.mode != "whole":
        return base_folder(
            store, parent_artifact(store, base, BASE_MODEL.name), project, cache, verify=verify
        )
    export = parent_artifact(store, base, MODEL_EXPORT.name)
    if verify:
        verify_artifact(store, export, cache)
    return export.folder(store, cache) / "payload"


def base_files(store: Store, base: Artifact, cache: Path) -> dict[str, str]:
    """Return the sha256 of each file that loading a base_model artifact reads, by its path below
    `base_folder`.
    """
    files = BaseRecord.read(base.folder(store, cache) / "payload").files
    return {file.path: file.sha256 for file in files}


def new_token_ids_of(store: Store, base: Artifact, cache: Path) -> list[int]:
    """Return the rows of a base's vocabulary that were added for its variant, and are to be trained."""
    derived = BaseRecord.read(base.folder(store, cache) / "payload").derived
    return list(derived.new_token_ids) if derived else []


def bases_beneath(store: Store, base: Artifact) -> Iterator[Artifact]:
    """Yield a base_model artifact, and the bases of the releases that it starts from, one after the other
    down to that of a named source. Raises UserError where one is gone.
    """

    def beneath(one: Artifact) -> list[Artifact]:
        return [parent_artifact(store, one, BASE_MODEL.name)] if started_from(one) else []

    return (each for each, _ in walk([base], beneath))


def named_source(store: Store, base: Artifact) -> str:
    """Return the source of a base as it was declared, by its variant or by the first of those it starts
    from.
    """
    *_, first = bases_beneath(store, base)
    return str(first.spec["base"]["reference"])


def added_tokens(store: Store, base: Artifact) -> list[str]:
    """Return the tokens added to a base's vocabulary, for its variant or for those whose releases it starts
    from.
    """
    added = (each.spec.get("new_tokens") or () for each in bases_beneath(store, base))
    return list(dict.fromkeys(token for tokens in added for token in tokens))


def added_token_ids(store: Store, base: Artifact, cache: Path) -> list[int]:
    """Return the rows of the added tokens: a vocabulary only grows."""
    extended = [each for each in bases_beneath(store, base) if each.spec.get("new_tokens")]
    return [id_ for each in extended for id_ in new_token_ids_of(store, each, cache)]


def parent_artifact(store: Store, base: Artifact, stage: str) -> Artifact:
    """Return the model_export or base_model artifact of the release that `base` starts from. Raises
    UserError.
    """
    found = input_of(StoredGraph(store), base, stage)
    if found is None:
        parent = base.figures["parent"]
        raise _gone(parent["variant"], parent["version"], stage, None)
    return found


def newer_parent(store: Store, child: VariantKey, base: Artifact | None) -> tuple[VariantKey, int] | None:
    """Return (parent, version) of the release in production if `base` was made from another one; else
    None.
    """
    used = None if base is None else started_from(base)
    if base is None or not used:
        return None
    parent = VariantKey.parse(used["variant"])
    entry = production(store, parent_prefix(child, parent))
    if entry is None or entry.export == base.inputs[MODEL_EXPORT.name]:
        return None
    return parent, entry.version


class RolledBack(NamedTuple):
    """Names a release that a base was made on, and `why` it was rolled back since; `mark` names that
    rollback.
    """

    parent: VariantKey
    version: int
    why: str
    mark: str

    @property
    def words(self) -> str:
        return f"{self.parent} v{self.version}, which it was made on, was rolled back"


def rolled_back_beneath(store: Store, base: Artifact) -> Iterator[RolledBack]:
    """Yield the releases that a base was made on and that were rolled back, the nearest first. Raises
    UserError for one that is gone, or is in no log, so that nobody knows.
    """
    for each in bases_beneath(store, base):
        parent = started_from(each)
        if parent:
            key = VariantKey.parse(parent["variant"])
            child = VariantKey.parse(variant_of(each.place.prefix) or "")
            log = history(store, parent_prefix(child, key))
            if parent["version"] not in versions_in(log):
                raise _gone(
                    key, parent["version"], "the log that says so", store.uri(parent_prefix(child, key))
                )
            found = rollbacks(log).get(each.inputs[FINE_TUNED_MODEL.name])
            if found is not None:
                mark = f"{key}@{parent['version']} {found.entry or found.at}"
                yield RolledBack(key, parent["version"], found.reason, mark)


def parents_moved(store: Store, child: VariantKey, base: Artifact | None) -> Iterator[StaleCause]:
    """Yield the causes that make a base stale by the releases it was made on. Raises UserError where one is
    gone.
    """
    back = [] if base is None else list(rolled_back_beneath(store, base))
    yield from (StaleCause("rolled_back", str(each.parent), each.words) for each in back)
    newer = newer_parent(store, child, base)
    if newer is not None and newer[0] not in {each.parent for each in back}:
        yield StaleCause("parent", str(newer[0]), f"{newer[0]} v{newer[1]} was released since")


def _gone(key: object, version: int, what: str, file: object) -> UserError:
    return UserError(
        f"version {version} of {key} is released, but {what} is no longer in the store",
        file=file,
        field=FIELD,
        value=str(key),
        fix="Restore the store from a backup, or run and release that variant again",
    )
