"""A certificate in words."""

from __future__ import annotations

import math

from ft_dagster.report.sentences.certificates import certificate_rows


def test_figures_have_words_and_units_and_none_is_left_out() -> None:
    figures = {"mean_kl": math.nan, "top1_agreement": 0.995, "probes": 8.0, "arithmetic_kl": 0.00123}
    assert certificate_rows(figures) == [
        ["prompts compared", "8"],
        ["positions with the same likeliest token", "99.5%"],
        ["mean KL, nats a token", "-"],
        ["arithmetic kl", "0.00123"],
    ]
