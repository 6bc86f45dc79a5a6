"""Pictures that stand inline in Dagster's pages: small, well-formed, of whatever figures there are."""

from __future__ import annotations

import base64
import math
from xml.etree import ElementTree

import pytest

from ft_dagster.lineage.verdict import Rule
from ft_dagster.report.charts.svg import (
    GREY,
    INLINE,
    POINTS,
    Bar,
    Link,
    bar_picture,
    chain,
    curves,
    fitting,
    interval_pictures,
    measured,
    thinned,
)
from tests.verdicts import stored_rule


def read(picture: str | None) -> ElementTree.Element:
    """The picture in a markdown image, parsed."""
    assert picture is not None
    assert len(picture) <= INLINE
    content = picture.partition("base64,")[2].removesuffix(")")
    return ElementTree.fromstring(base64.b64decode(content))


def texts(svg: ElementTree.Element) -> list[str]:
    return ["".join(each.itertext()) for each in svg.iter("{http://www.w3.org/2000/svg}text")]


def rule(task: str, **changes: object) -> Rule:
    return Rule.from_json(stored_rule(task=task, margin=0.05, **changes))


def test_bars_are_named_with_their_values_and_what_does_not_fit_is_left_out() -> None:
    parts = [Bar(f"data/a<b/{n}", n, f"{n} GB") for n in range(40)]
    shown = texts(read(bar_picture(parts, "memory of 30 GB (red)", 30)))
    assert shown[0] == f"memory of 30 GB (red), {len(shown) - 1} of 40"
    assert shown[2] == "data/a<b/1 1 GB"
    assert 4 <= len(shown) < 40
    assert texts(read(bar_picture(parts[:2], "memory")))[0] == "memory"


def test_a_bar_begins_behind_its_name_in_a_wide_font() -> None:
    name, shown = "adapter_model.safetensors", "19.6 MB"
    (path,) = read(bar_picture([Bar(name, 2e7, shown)], "files")).iter("{http://www.w3.org/2000/svg}path")
    wide = 6.1  # pixels a character of DejaVu Sans, of such names
    assert int(path.get("d", "").split()[0].removeprefix("M")) > wide * len(f"{name} {shown}")


@pytest.mark.parametrize("values", [[], [0.0, 0.0]])
def test_nothing_to_draw_is_no_error(values: list[float]) -> None:
    parts = [Bar("x", value, "0") for value in values]
    picture = bar_picture(parts, "rows")
    assert picture is None if not values else texts(read(picture)) == ["rows", "x 0", "x 0"]


def test_long_curves_are_thinned_and_end_with_their_last_value() -> None:
    steep = [(float(step), 4 * math.exp(-step / 900)) for step in range(5000)]
    found = {"training": steep, "validation": steep[::900]}
    picture = fitting(lambda some: curves(dict(some)), list(found.items()), "losses")
    axes = ["4", "0.015", "nats a token, steps 0 to 4999"]
    assert texts(read(picture)) == ["training 0.0155", "validation 0.027", *axes]
    assert thinned(steep)[0] == steep[0]
    assert thinned(steep)[-1] == steep[-1]
    assert len(thinned(steep)) == POINTS


def test_a_flat_curve_and_one_point_are_drawn() -> None:
    assert texts(read(fitting(lambda some: curves(dict(some)), [("loss", [(3.0, 1.5)])], "loss"))) == [
        "loss 1.5", "2", "1", "nats a token, steps 2.5 to 3.5",
    ]  # fmt: skip


def test_intervals_show_better_to_the_right_whatever_the_metric() -> None:
    better = [
        rule("gain", difference=0.1, interval=[0.05, 0.2]),
        rule("loss", difference=-0.1, interval=[-0.2, -0.05], higher_is_better=False),
    ]
    drawn = read(*interval_pictures(better))
    (strokes,) = [p.get("d", "") for p in drawn if p.get("stroke") == "#3f9d63"]
    gain, loss = strokes.split("v6")[:2]
    assert gain.replace(" 24", "").replace(" 21", "") == loss.replace(" 40", "").replace(" 37", "")
    axes = ["95% interval; red: margin", "worse ← 0 → better"]
    assert texts(drawn) == [*axes, "gain +5.0 to +20.0 points", "loss -20.0 to -5.0 points"]


def test_each_interval_is_drawn_with_its_figures_in_as_many_pictures_as_it_takes() -> None:
    rules = [rule(f"quiz {n}", difference=0.01 * n, interval=[0.0, 0.2]) for n in range(12)]
    shown = [text for picture in interval_pictures(rules) for text in texts(read(picture))[2:]]
    assert shown == [f"quiz {n} +0.0 to +20.0 points" for n in range(12)]


def test_what_has_no_interval_is_not_drawn() -> None:
    unknown = rule("quiz", interval=[None, None])
    assert measured([unknown, rule("exam")]) == [rule("exam")]
    assert interval_pictures([unknown]) == []


def test_a_chain_has_a_line_of_each_and_shows_which_one_is_meant() -> None:
    parts = [Link("rows <100>"), Link("mixture 71 examples", here=True), Link("model 96 steps")]
    picture = read(fitting(chain, parts, "lineage"))
    assert texts(picture) == [part.words for part in parts]
    [meant] = [each for each in picture.iter() if each.get("stroke") == "#d9822b"]
    assert meant.get("d") == "M4 21v6"


def test_curves_of_three_sources_have_axes_units_and_a_mark_at_each_validation() -> None:
    steps = [(float(step), 8.0 - step / 50) for step in range(1, 352)]
    looks = [(0.0, 8.012), (176.0, 0.362), (351.0, 0.275)]
    found = {
        "validation": looks,
        "training, mean of 9 steps": steps[::9],
        "general": [(0.0, 3.24), (351.0, 3.24)],
    }
    drawn = read(fitting(lambda some: curves(dict(some)), list(found.items()), "losses"))
    assert texts(drawn)[:3] == ["validation 0.275", "training 1.14", "general 3.24"]
    assert texts(drawn)[-1] == "nats a token, steps 0 to 351"
    (axes,) = [path.get("d", "") for path in drawn.iter() if path.get("stroke") == GREY]
    assert axes == "M30 4V86H190M30 83v6M110 83v6M190 83v6"
