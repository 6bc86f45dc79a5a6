"""`data.general.share: auto`: by what the version before forgot."""

from __future__ import annotations

from typing import get_args

import pytest

from ft_dagster.planning.before import VersionBefore
from ft_dagster.planning.methods.share import PRIOR, chosen_share
from ft_dagster.planning.reasons import Reason
from ft_dagster.spec.variant import GeneralSpec, ShareOf


@pytest.mark.parametrize("known", [None, VersionBefore(), VersionBefore(share=0.05)])
def test_without_a_version_that_was_judged_it_is_what_is_not_declared(known: VersionBefore | None) -> None:
    found = chosen_share(known, "processed")
    assert found.value == PRIOR == GeneralSpec(corpus="general").share
    assert found.origin == "built-in"
    assert found.reason.startswith("rule: ")


@pytest.mark.parametrize(
    ("share", "rise", "value", "said"),
    [
        (0.05, 0.11, 0.08, "+0.110, past its margin of 0.1"),
        (0.08, 0.5, 0.10, "+0.500, past its margin of 0.1"),
        (0.10, 0.5, 0.25, "past its margin"),
        (0.25, 0.5, 0.25, "no more helps, a lower training.learning_rate does"),
        (0.25, -0.2, 0.10, "nothing was forgotten"),
        (0.0, 0.5, 0.05, "past its margin"),
        (0.08, 0.1, 0.08, "+0.100, within its margin of 0.1"),
        (0.08, 0.02, 0.08, "within its margin"),
        (0.10, 0.0, 0.08, "nothing was forgotten"),
        (0.08, -0.2, 0.05, "-0.200: nothing was forgotten"),
        (0.05, -0.2, 0.05, "nothing was forgotten"),
        (0.07, -0.2, 0.05, "nothing was forgotten"),
        (0.30, 0.5, 0.30, "no more helps, a lower training.learning_rate does"),
        (0.30, -0.2, 0.25, "nothing was forgotten"),
        (0.03, -0.2, 0.03, "nothing was forgotten; no smaller share is tried"),
        (0.0, 0.0, 0.0, "nothing was forgotten; no smaller share is tried"),
    ],
)
def test_it_goes_one_step_up_past_the_margin_and_one_down_where_nothing_was_forgotten(
    share: float, rise: float, value: float, said: str
) -> None:
    found = chosen_share(VersionBefore(share=share, general_rise=rise, general_margin=0.1), "processed")
    assert (found.value, found.origin) == (value, "measured")
    assert found.reason.startswith(f"measured: with {share:.1%} the version before")
    assert said in found.reason


def test_of_the_trained_tokens_no_more_than_a_tenth_helps() -> None:
    found = chosen_share(VersionBefore(share=0.1, general_rise=0.5, general_margin=0.1), "trained")
    assert found.value == 0.1
    assert "no more helps" in found.reason


@pytest.mark.parametrize("share_of", get_args(ShareOf))
@pytest.mark.parametrize("share", [percent / 100 for percent in range(51)])
def test_no_step_goes_the_wrong_way_and_one_that_stays_says_so(share: float, share_of: ShareOf) -> None:
    def found(rise: float) -> Reason:
        before = VersionBefore(share=share, general_rise=rise, general_margin=0.1)
        return chosen_share(before, share_of)

    more, less = found(0.5), found(-0.2)
    assert more.value >= share >= less.value
    assert ("no more helps" in more.reason) is (more.value == share)
    assert ("no smaller share is tried" in less.reason) is (less.value == share)
    assert found(0.05).value == share
