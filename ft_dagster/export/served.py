"""What is in production as adapters, by base: from the release logs and the exports they name."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from ft_dagster.data.quantize import quantization_of
from ft_dagster.export.catalogue import ReleasedAdapter
from ft_dagster.export.vllm import not_loaded, rank_of
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.lineage.release import export_of, production
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, variant_files
from ft_dagster.store import SHARED, Artifact, Store


class ServedBase(NamedTuple):
    """A base and the adapters in production on it; `folder`: a name for files about it."""

    reference: str
    digest: str
    folder: str
    adapters: list[ReleasedAdapter]


def served_adapters(settings: Settings) -> list[ServedBase]:
    """Of every declared variant that is in production as an adapter. Raises UserError for damaged bytes."""
    store = settings.open_store()
    bases: dict[str, ServedBase] = {}
    for key in variant_files(settings.project):
        entry = production(store, key.prefix)
        if entry is not None and entry.format == "adapter":
            _add(bases, store, settings, key, entry.version)
    return sorted(bases.values(), key=lambda base: base.reference)


def _add(
    bases: dict[str, ServedBase], store: Store, settings: Settings, key: VariantKey, version: int
) -> None:
    export = export_of(store, key.prefix, version, settings.cache_folder)
    payload = export.folder(store, settings.cache_folder) / "payload"
    config = json.loads((payload / "adapter_config.json").read_text("utf-8"))
    digest = export.inputs["base_model"]
    base = find_digest(store, (key.prefix, SHARED), "base_model", digest)
    reference = digest if base is None else _reference(base, store, settings)
    adapter = ReleasedAdapter(
        str(key),
        version,
        str(payload),
        rank_of(config),
        export.digest,
        quantization_of(payload),
        tuple(not_loaded(config)),
    )
    name = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', reference).strip('-')[-40:]}-{digest[:8]}"
    bases.setdefault(digest, ServedBase(reference, digest, name, [])).adapters.append(adapter)


def _reference(base: Artifact, store: Store, settings: Settings) -> str:
    record = json.loads(
        (base.folder(store, settings.cache_folder) / "payload" / "base.json").read_text("utf-8")
    )
    return str(record["reference"])
