"""A merge that rounding carried away from what was judged is evaluated by itself before it may ship."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.gate.refusals.refusals import read_pairs
from ft_dagster.gate.samples import OWN
from ft_dagster.lineage.release import history
from ft_dagster.store import read_head
from tests.e2e.project import edit, write_project
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.long
PREFIX = "tenants/globex/places"
LOUDER = 4000.0


@pytest.fixture(scope="module")
def loud_base(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """The tiny model in bfloat16 with logits so large that what a merge rounds away decides words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("loud") / "tiny-llama"
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    with torch.no_grad():
        model.model.norm.weight.mul_(LOUDER)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def drifted(tmp_path_factory: pytest.TempPathFactory, loud_base: Path) -> Iterator[Workshop]:
    folder = write_project(tmp_path_factory.mktemp("drifted"), loud_base)
    wide = {"general_margin": 1.0, "general_loss_margin": 1.0, "undecided": "measured", "refusals": "on"}
    edit(folder / "tenants/globex/places.yaml", lambda c: c.update(gates=wide))
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        shop.first = shop.materialize("globex.places", raises=False)
        yield shop


def test_it_ships_by_its_own_verdict(drifted: Workshop) -> None:
    assert drifted.first.success, drifted.failure(drifted.first)
    (check,) = [c for c in drifted.first.get_asset_check_evaluations() if c.check_name == "certificate"]
    assert check.passed
    assert "evaluated by itself, it passes" in present(check.description)
    export = present(read_head(drifted.store, PREFIX, "model_export"))
    evidence = present(drifted.store.local(export.path)) / "evidence"
    certificate = json.loads((evidence / "certificate.json").read_text())
    assert (certificate["passed"], certificate["drifted"]) == (False, True)
    assert (evidence / OWN / "payload" / "samples.parquet").exists()
    assert len(read_pairs(evidence / OWN / "payload")) == 240  # and it is asked itself what it refuses
    (entry,) = history(drifted.store, PREFIX)
    assert entry.export == export.digest


def test_its_own_scores_cannot_be_swapped(drifted: Workshop) -> None:
    export = present(read_head(drifted.store, PREFIX, "model_export"))
    samples = present(drifted.store.local(export.path)) / "evidence" / OWN / "payload" / "samples.parquet"
    samples.write_bytes(samples.read_bytes()[:-4] + bytes(4))
    result = drifted.materialize("globex.places", "release", raises=False)
    assert "samples.parquet" in drifted.failure(result)
