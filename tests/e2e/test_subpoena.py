"""The subpoena drill: what a model was trained on is told by the store alone, after all else is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.audit.asked import asked_record
from ft_dagster.audit.desk import open_audit
from ft_dagster.audit.models import at, training_records
from ft_dagster.audit.proofs import check, prove
from ft_dagster.audit.records import INHERITED, TRAINED, record
from ft_dagster.audit.verify import verify
from ft_dagster.data.dataset_io import read_split
from ft_dagster.data.rows import Row
from ft_dagster.provenance.stage_versions import STAGE_VERSIONS
from ft_dagster.settings import Settings
from ft_dagster.store import read_head
from ft_dagster.strict_json import dumps
from tests.e2e.project import declaration, rows, write_lines, write_project, write_yaml
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.slow
PARENT, CHILD = "acme.places", "acme.colours"


@pytest.fixture(scope="module")
def left(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Iterator[tuple[Settings, dict[str, Any]]]:
    """What is left of a project whose second variant was stacked on the first one's release, and what was
    noted of both before declarations, partitions, Dagster's database and the meaning of the stages went.
    """
    folder = write_project(tmp_path_factory.mktemp("subpoena") / "project", tiny_model_folder)
    colours = [
        {"instruction": f"Which colour has house {n}?", "output": f"House {n} is red."} for n in range(60)
    ]
    write_lines(folder / "data" / "colours.jsonl", colours)
    content = declaration(tiny_model_folder, base_model={"variant": PARENT, "parent_adapter": "stack"})
    content["data"]["sources"] = ["data/colours.jsonl"]
    content["training"].update(num_train_epochs=2, evaluations=1)
    write_yaml(folder / "tenants" / "acme" / "colours.yaml", content)
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        for variant in (PARENT, CHILD):
            assert shop.materialize(variant).success
        noted = {"rows": list(trained_rows(shop)), "weights": weights(shop)}
        forge_events(shop)
        for variant in (PARENT, CHILD):
            instance.delete_dynamic_partition(PARTITIONS, variant)
    shutil.rmtree(folder / "tenants" / "acme")
    shutil.rmtree(folder / ".ft_dagster" / "dagster_home", ignore_errors=True)
    shutil.rmtree(folder / ".ft_dagster" / "work")
    with pytest.MonkeyPatch.context() as patch:
        for stage, version in STAGE_VERSIONS.items():
            patch.setitem(STAGE_VERSIONS, stage, version + 1)
        yield shop.settings, noted


def trained_rows(shop: Workshop) -> Iterator[Row]:
    dataset = present(read_head(shop.store, "tenants/acme/places", "task_dataset"))
    payload = dataset.folder(shop.store, shop.settings.cache_folder) / "payload"
    return read_split(payload / "train.parquet")


def weights(shop: Workshop) -> dict[str, str]:
    prefixes = {PARENT: "tenants/acme/places", CHILD: "tenants/acme/colours"}
    found = {name: read_head(shop.store, prefix, "fine_tuned_model") for name, prefix in prefixes.items()}
    return {name: present(one).digest for name, one in found.items()}


def forge_events(shop: Workshop) -> None:
    """A materialization that no run made, which says that the weights are others."""
    forged = dg.AssetMaterialization(
        "fine_tuned_model", partition=PARENT, tags={"dagster/data_version": "0" * 64, "ft/tenant": "globex"}
    )
    shop.instance.report_runless_asset_event(forged)


def test_the_exact_training_records_of_that_day_are_told(left: tuple[Settings, dict[str, Any]]) -> None:
    settings, noted = left
    audit = open_audit(settings)
    today = datetime.now(UTC).date().isoformat()
    found = at(audit, PARENT, today)
    assert found.model.weights == noted["weights"][PARENT]
    [source, general] = found.model.sources
    assert (source.path, general.path) == ("data/rows.jsonl", "general:data/general.jsonl")
    told = {one.identity: one for one in training_records(audit, audit.model(found.model.weights))}
    own = {identity for identity, one in told.items() if not str(one.facts["source"]).startswith("general:")}
    assert own == {row.identity.hex() for row in noted["rows"]}
    for row in noted["rows"]:
        turns = [message._asdict() for message in row.messages]
        assert told[row.identity.hex()].content == {"messages": turns}
        assert told[row.identity.hex()].times >= 1
    assert len(told) == found.records > len(own)


def test_a_record_leads_to_both_models(left: tuple[Settings, dict[str, Any]]) -> None:
    settings, noted = left
    audit = open_audit(settings)
    seen = {row.identity for row in noted["rows"]}
    asked = next(one for row in rows() if (one := asked_record(json.dumps(row))).identities[0] in seen)
    found = record(audit, asked)
    assert {(one.variant, one.weights, one.how) for one in found.models} == {
        (PARENT, noted["weights"][PARENT], TRAINED),
        (CHILD, noted["weights"][CHILD], INHERITED),
    }
    assert all(one.releases[0].production for one in found.models)
    assert all(one.inclusion is not None for one in found.found)


def test_all_that_is_left_still_verifies(left: tuple[Settings, dict[str, Any]]) -> None:
    assert verify(open_audit(left[0])).problems == ()


def test_a_proof_is_small_and_checked_without_the_store(
    left: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    settings, noted = left
    audit = open_audit(settings)
    identity = noted["rows"][0].identity.hex()
    proof = tmp_path / "proof.json"
    proof.write_text(dumps(prove(audit, asked_record(identity), audit.model(PARENT)), indent=1), "utf-8")
    assert proof.stat().st_size < 64_000
    found = check(proof, asked_record(identity))
    assert (found.variant, found.model) == (PARENT, noted["weights"][PARENT])


def test_a_day_before_has_no_answer(left: tuple[Settings, dict[str, Any]]) -> None:
    audit = open_audit(left[0])
    yesterday = (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
    with pytest.raises(Exception, match="its first release was at"):
        at(audit, PARENT, yesterday)
