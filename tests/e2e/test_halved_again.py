"""A training that ran out of memory, made again from its manifests."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.audit.answers import EXACT
from ft_dagster.audit.audit import open_audit
from ft_dagster.audit.replay.replay import replay
from ft_dagster.stages import fine_tuned_model
from ft_dagster.store import read_head
from tests.e2e.project import UP_TO_PLAN, edit, write_project
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.slow
PARENT, PARENT_PREFIX = "acme.places", "tenants/acme/places"


@pytest.mark.long
def test_a_training_that_ran_out_of_memory_is_made_again_byte_for_byte(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was tried again with half the micro-batch; the replay, in processes of its own, is not told here."""
    folder = write_project(tmp_path / "project", tiny_model_folder)
    more = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "evaluations": 1}
    edit(folder / "tenants/acme/places.yaml", lambda content: content["training"].update(more))
    monkeypatch.setattr(fine_tuned_model, "wants_halving", lambda *tried: True)
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        assert shop.materialize(PARENT, *UP_TO_PLAN, "fine_tuned_model").success
    trained = present(read_head(shop.store, PARENT_PREFIX, "fine_tuned_model"))
    assert trained.figures["micro_batch_halved"]
    audit = open_audit(shop.settings)
    found = replay(audit, audit.model(PARENT), tmp_path / "again")
    assert (found.verdict, found.weights, found.figures) == (EXACT, trained.digest, {})
