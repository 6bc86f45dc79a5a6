"""What was made from a stage that is no more: it stands, and is told as made by an older project."""

from __future__ import annotations

import pytest

from ft_dagster.provenance.stage_versions import FORMER_STAGES, STAGE_VERSIONS
from ft_dagster.stages.outdated import _raised
from ft_dagster.stages.versions import former_input, is_of_now, is_older
from ft_dagster.store import Artifact, Place


def made(*inputs: str, version: int | None = None) -> Artifact:
    stage = "training_plan"
    predicate = {
        "stage_version": STAGE_VERSIONS[stage] if version is None else version,
        "inputs": dict.fromkeys(("training_mixture", *inputs), "d" * 64),
    }
    return Artifact(Place("tenants/acme/places", stage, "k" * 64), predicate, reused=True)


def test_no_stage_of_today_is_a_former_one() -> None:
    assert not set(FORMER_STAGES) & STAGE_VERSIONS.keys()


@pytest.mark.parametrize("former", FORMER_STAGES)
def test_what_was_made_from_one_is_older_at_the_version_of_today(former: str) -> None:
    assert (is_of_now(made()), is_older(made()), former_input(made())) == (True, False, None)
    one = made(former)
    assert (is_of_now(one), is_older(one), former_input(one)) == (False, True, former)
    (cause,) = _raised([one])
    assert cause.words == f"training_plan was made from {former}, which nothing goes by any more"


def test_an_earlier_version_of_a_stage_is_told_by_its_number() -> None:
    (cause,) = _raised([made(version=1)])
    assert f"{STAGE_VERSIONS['training_plan']}" in cause.words
