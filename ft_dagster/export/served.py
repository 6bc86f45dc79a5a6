"""Lists what is in production: adapters by base and quantization, and whole models, from the release logs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ft_dagster.evaluation.models.loaded_by_vllm import not_loaded, rank_of
from ft_dagster.export.catalogue import ReleasedAdapter
from ft_dagster.export.vllm import serve_command
from ft_dagster.gate.verdict_words import verdict_sentence
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import StoredGraph, input_of, released_evaluation
from ft_dagster.lineage.release import export_of, production
from ft_dagster.lineage.serving import Standing
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.models.base_record import BaseRecord
from ft_dagster.models.quantize import quantization_of
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, variant_files
from ft_dagster.stage_entries import BASE_MODEL
from ft_dagster.store import Artifact, Store


class ServedBase(NamedTuple):
    """Describes a base as it was quantized when the adapters in production on it were judged.

    `folder`: a name for files about it.
    """

    reference: str
    digest: str
    quantization: str | None
    folder: str
    adapters: list[ReleasedAdapter]


class ReleasedModel(NamedTuple):
    """Describes the version in production of a variant that is served whole. `path`: its folder, `digest`: of
    it; `verdict`: the sentence of what it was released by.
    """

    variant: str
    version: int
    path: str
    digest: str
    verdict: str


class Served(NamedTuple):
    """Holds all that is in production; `unserved`: what of it may no longer be served, withheld or not."""

    bases: list[ServedBase]
    models: list[ReleasedModel]
    unserved: list[Standing]


def served(settings: Settings, unserved_of: Callable[[VariantKey], Standing | None]) -> Served:
    """Return every declared variant that is in production, without what is withheld. Raises UserError for
    damaged bytes.
    """
    store = settings.open_store()
    bases: dict[tuple[str, str | None], ServedBase] = {}
    models, unserved = [], []
    for key in variant_files(settings.project):
        entry = production(store, key.prefix)
        if entry is None:
            continue
        if (standing := unserved_of(key)) is not None:
            unserved.append(standing)
            if standing.withheld:
                continue
        export = export_of(store, key.prefix, entry.version, settings.cache_folder)
        payload = export.folder(store, settings.cache_folder) / "payload"
        said = _verdict(store, key, entry)
        if entry.format == "adapter":
            adapter = replace(_adapter(payload, key, entry.version, export.digest), verdict=said)
            base = _base(store, key, export, adapter.quantization)
            bases.setdefault((base.digest, base.quantization), base).adapters.append(adapter)
        else:
            models.append(ReleasedModel(str(key), entry.version, str(payload), export.digest, said))
    ordered = sorted(bases.values(), key=lambda base: (base.reference, base.quantization or ""))
    return Served(ordered, models, unserved)


def command_of(payload: Path, format: str, name: str) -> str | None:
    """Return the command by which vLLM serves an export of this format as `name`; None where it does not."""
    if format == "merged":
        return "vllm serve EXPORT"
    config = json.loads((payload / "adapter_config.json").read_text("utf-8"))
    return serve_command(config, name, quantization_of(payload))


def _adapter(payload: Path, key: VariantKey, version: int, digest: str) -> ReleasedAdapter:
    config = json.loads((payload / "adapter_config.json").read_text("utf-8"))
    quantization, reasons = quantization_of(payload), tuple(not_loaded(config))
    return ReleasedAdapter(str(key), version, str(payload), rank_of(config), digest, quantization, reasons)


def _verdict(store: Store, key: VariantKey, entry: ReleaseEntry) -> str:
    """Return the sentence of the evaluation that a version was released by; empty where it is gone."""
    judged = released_evaluation(store, key.prefix, entry)
    verdict = None if judged is None else judged.figures.get("verdict")
    return verdict_sentence(Verdict.from_json(verdict)) if verdict else ""


def _base(store: Store, key: VariantKey, export: Artifact, quantization: str | None) -> ServedBase:
    """Return the base without its adapters."""
    digest = export.inputs[BASE_MODEL.name]
    base = input_of(StoredGraph(store), export, BASE_MODEL.name)
    reference = digest if base is None else _reference(base, store)
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", reference).strip("-")[-40:]
    folder = "-".join(filter(None, (name, quantization, digest[:8])))
    return ServedBase(reference, digest, quantization, folder, [])


def _reference(base: Artifact, store: Store) -> str:
    return BaseRecord.stored(store, base).reference
