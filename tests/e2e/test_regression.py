"""A new version is held against the one in production, when it is released."""

import pytest

from ft_dagster.lineage.release import history, production
from ft_dagster.store import read_head
from tests.e2e.project import edit
from tests.e2e.workshop import Workshop
from tests.present import present

pytestmark = pytest.mark.slow
PREFIX = "tenants/acme/places"
DECLARATION = f"{PREFIX}.yaml"
JUDGED = ("declaration", "base_evaluation", "evaluation", "model_export", "release")


@pytest.fixture
def second(released: Workshop) -> Workshop:
    """A project with a version in production, whose next one has learned far less of the task."""
    assert released.materialize("acme.places").success
    less = {"num_train_epochs": 1, "learning_rate": 2e-3}
    edit(released.folder / DECLARATION, lambda content: content["training"].update(less))
    return released


def test_a_version_better_than_the_base_and_worse_than_production_is_not_released(second: Workshop) -> None:
    result = second.materialize("acme.places", raises=False)
    assert "against version 1 in production, the task test_split_task" in second.failure(result)
    gate = next(e for e in result.get_asset_check_evaluations() if e.check_name == "gate")
    assert gate.passed
    assert len(history(second.store, PREFIX)) == 1

    result = second.materialize("acme.places", "release", raises=False)
    assert "against version 1 in production" in second.failure(result)

    edit(second.folder / DECLARATION, lambda content: content["gates"].update(regression_margin=None))
    assert second.materialize("acme.places", *JUDGED).success
    released = present(production(second.store, PREFIX))
    assert released.version == 2
    assert released.weights == present(read_head(second.store, PREFIX, "fine_tuned_model")).digest
