"""The picture of an artifact among its relatives stays inline, and never without the artifact."""

from __future__ import annotations

import base64

from ft_dagster.report.charts.svg import INLINE
from ft_dagster.report.tables.relatives import Relative, family_picture
from ft_dagster.store import Artifact, Place


def model(steps: int) -> Artifact:
    place = Place("tenants/acme/one", "fine_tuned_model", f"{steps:064x}")
    return Artifact(place, {"digest": "0" * 64, "figures": {"steps": steps}})


def drawn(above: int, below: int, variant: str | None = None) -> str:
    """The SVG of an artifact with so many relatives."""
    before, after = ([Relative(model(1000 + n), variant) for n in range(count)] for count in (above, below))
    picture = family_picture(before, model(7), after, [1, 2])
    assert picture is not None
    assert len(picture) <= INLINE
    return base64.b64decode(picture.partition("base64,")[2].removesuffix(")")).decode()


def test_of_too_many_relatives_the_nearest_are_drawn() -> None:
    for above, below in ((40, 0), (0, 40), (40, 40)):
        assert "fine_tuned_model 7 steps" in drawn(above, below)
    both = drawn(40, 40)
    assert "fine_tuned_model 1,039 steps" in both  # the last above
    assert "fine_tuned_model 1,000 steps" in both  # the first below


def test_of_another_variant_the_last_is_drawn_alone_and_versions_are_counted() -> None:
    svg = drawn(5, 0, "acme.parent")
    assert svg.count("acme.parent fine_tuned_model") == 1
    assert "version 2 of 2" in svg


def test_who_has_no_relatives_has_no_picture() -> None:
    assert family_picture([], model(7), [], []) is None
