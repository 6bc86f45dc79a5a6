"""What sensors read of a store that is remote: a process that lives for months keeps nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.automation.notify import _frozen
from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.watching import _frozen_base, _frozen_sources
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Attempt, exclusive, write_head
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.versions.newest_plan import newest_plan
from tests.e2e.project import write_yaml
from tests.s3_server import S3Server

SOURCES = [[{"path": "data/a.jsonl", "sha256": "0" * 64}]]
BASE = [{"path": "config.json", "size": 2, "sha256": "0" * 64}]
FILES: dict[str, dict[str, Any]] = {
    "declaration": {"payload/declaration.json": {"sources": SOURCES, "spec": {"notify": ["ops"]}}},
    "base_model": {
        "payload/base.json": {"reference": "models/x", "files": BASE},
        "payload/weights": [0] * 1000,
    },
    "training_plan": {"evidence/estimate.json": {"schema_version": 1}},
}


@pytest.fixture
def remote(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a project with three variants that ran."""
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    named = {"store": f"s3://{s3_server.bucket}/{tmp_path.name}", "store_options": s3_server.options}
    write_yaml(tmp_path / "ft_dagster.yaml", named)
    (tmp_path / "tenants").mkdir()
    settings = load_settings(tmp_path)
    for key in keys():
        for stage in FILES:
            ran(settings, key, stage)
    return settings


def keys() -> list[VariantKey]:
    return [VariantKey("acme", f"v{number}") for number in range(3)]


def ran(settings: Settings, key: VariantKey, stage: str) -> None:
    def build(attempt: Attempt) -> dict[str, Any]:
        for name, content in FILES[stage].items():
            (attempt.folder / name).write_text(json.dumps(content), "utf-8")
        (attempt.payload / "of").write_text(str(key))  # each has bytes of its own
        return {}

    store, recipe = settings.open_store(), Recipe(stage, key.prefix, {}, {"of": str(key)})
    write_head(store, key.prefix, make_artifact(store, settings.work_folder, recipe, build), None)


@pytest.mark.slow
def test_what_sensors_read_leaves_no_open_file_and_no_copy(remote: Settings) -> None:
    store = remote.open_store()
    for key in keys():
        sources, base = _frozen_sources(store, key), _frozen_base(store, key)
        assert sources is not None
        assert base is not None
        assert (sources[0], base[0]) == (SOURCES[0], BASE)
        assert _frozen(remote, key) == ["ops"]
        with pytest.raises(UserError, match="not an estimate"):
            newest_plan(store, key)
    below = str(remote.cache_folder)
    assert [each.path for each in psutil.Process().open_files() if each.path.startswith(below)] == []
    assert list(remote.cache_folder.glob("*/*/payload/*")) == []
