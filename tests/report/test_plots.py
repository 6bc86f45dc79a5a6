"""Plots: small PNGs, 700 pixels wide, of whatever figures there are."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import pytest
from PIL import Image

from ft_dagster.data.mixture_figures import SourceFigures
from ft_dagster.lineage.verdict import Rule
from ft_dagster.report.plots import (
    as_markdown_image,
    mixture_bar,
    score_bars,
    spectrum_plot,
    training_curves,
)
from tests.verdicts import stored_rule

LOG: list[dict[str, Any]] = [{"step": 0, "validation_loss": 4.6}]
for number in range(1, 301):
    LOG.append(
        {
            "step": number,
            "loss": 1 + 3 * math.exp(-number / 40),
            "learning_rate": 2e-4 / number,
            "grad_norm": 1 + math.sin(number),
            "tokens": 2000 + number % 7,
            "seconds": 1.0 + number % 5 / 10,
        }
    )
    if number % 50 == 0:
        LOG.append({"step": number, "validation_loss": 1.1 + 3 * math.exp(-number / 40)})
GENERAL = [{"step": step, "general_holdout_loss": 3.4 + step / 1000} for step in range(0, 301, 50)]
ASKED = [
    {"step": step, "benchmark": {"arc_easy": 0.5, "forms": 0.4 - step / 2000, "mean": 0.45 - step / 4000}}
    for step in range(0, 301, 50)
]
LAYERS: list[dict[str, Any]] = [
    {
        "name": f"model.layers.{block}.{kind}",
        "rank": 16,
        "values": [2 * (0.6 + block / 100) ** k for k in range(16)],
        "effective_rank": 2.5 + block / 10,
        "condition": 50.0,
    }
    for block in range(24)
    for kind in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
]
UNTRAINED = [{"name": "model.layers.0.q_proj", "rank": 4, "values": [0.0] * 4}]


def rule(metric: str, base: float | None, tuned: float | None, interval: list[float | None]) -> Rule:
    content = stored_rule(task="arc_easy", metric=metric, base=base, tuned=tuned, interval=interval)
    return Rule.from_json(content)


RULES = [rule("acc", 0.5, 0.45, [-0.1, 0.02]), rule("answer_loss", 4.6, 1.4, [-3.4, -3.0])]


def counted(trained_tokens: int) -> SourceFigures:
    return SourceFigures(documents=9, examples=9, tokens=9999, trained_tokens=trained_tokens, truncated=0)


SOURCES = {"data/faq.jsonl": counted(9200), "general:encyclopedia": counted(800)}


@pytest.mark.parametrize(
    "png",
    [
        pytest.param(lambda: training_curves(LOG), id="curves"),
        pytest.param(lambda: training_curves([]), id="curves of nothing"),
        pytest.param(lambda: training_curves([*LOG, *GENERAL, *ASKED]), id="curves with forgetting"),
        pytest.param(lambda: training_curves([*LOG, *GENERAL]), id="curves with general text"),
        pytest.param(lambda: spectrum_plot(LAYERS), id="spectrum"),
        pytest.param(lambda: spectrum_plot([*LAYERS[:3], *UNTRAINED]), id="spectrum of unlike ranks"),
        pytest.param(lambda: spectrum_plot(UNTRAINED), id="spectrum of an untrained adapter"),
        pytest.param(lambda: spectrum_plot([]), id="spectrum of nothing"),
        pytest.param(lambda: score_bars(RULES), id="scores"),
        pytest.param(lambda: score_bars([rule("acc", 0.5, None, [None, None])]), id="scores not a number"),
        pytest.param(lambda: score_bars([rule("acc", 0.5, 0.4, [None, None])]), id="scores without interval"),
        pytest.param(lambda: mixture_bar(SOURCES), id="mixture"),
        pytest.param(lambda: mixture_bar({"a": counted(0)}), id="mixture of nothing"),
    ],
)
def test_a_plot_is_a_small_png_700_pixels_wide(png: Any) -> None:
    content = png()
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.width) == ("PNG", 700)
    assert len(content) <= 40_000


def test_the_same_figures_give_the_same_picture_and_others_another() -> None:
    assert score_bars(RULES) == score_bars(RULES)
    assert score_bars(RULES) != score_bars(RULES[:1])


def test_sources_of_the_same_shortened_name_keep_a_bar_each() -> None:
    long = "/a/folder/with/a/very/long/name/indeed"
    two = {f"one{long}": counted(5), f"two{long}": counted(5)}
    one = {f"one{long}": counted(10)}
    assert Image.open(io.BytesIO(mixture_bar(two))).height > Image.open(io.BytesIO(mixture_bar(one))).height


def test_an_image_stands_in_markdown_by_itself() -> None:
    png = mixture_bar(SOURCES)
    text = as_markdown_image(png)
    assert base64.b64decode(text.removeprefix("![](data:image/png;base64,").removesuffix(")")) == png


def test_forgetting_gets_a_row_of_its_own() -> None:
    plain, watched = (Image.open(io.BytesIO(training_curves(log))) for log in (LOG, [*LOG, *GENERAL]))
    assert watched.height > plain.height
    assert training_curves([*LOG, *GENERAL]) != training_curves([*LOG, *GENERAL, *ASKED])


def test_another_spectrum_gives_another_picture() -> None:
    halved = [{**layer, "values": layer["values"][:8]} for layer in LAYERS]
    assert spectrum_plot(LAYERS) != spectrum_plot(halved)
