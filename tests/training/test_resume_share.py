"""What resume points save: the share that `plan` and the documentation say is what counting gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.training.retrain.resume_points import resume_steps, share_again

PAGE = Path(__file__).parents[2] / "docs" / "erasure.md"
FIRST_PASS = 960
PASSES = (1, 2, 3, 8)


@pytest.mark.parametrize("points", [1, 3, 7, 15])
def test_the_share_of_a_retrain_is_the_mean_over_all_first_readings(points: int) -> None:
    shares = []
    for passes in PASSES:
        kept, steps = [0, *resume_steps(FIRST_PASS, points)], FIRST_PASS * passes
        taken = [1 - max(s for s in kept if s < first) / steps for first in range(1, FIRST_PASS + 1)]
        assert share_again(passes, points) == pytest.approx(sum(taken) / len(taken))
        shares.append(f"{share_again(passes, points):.0%}")
    assert f"| {points} | {' | '.join(shares)} |" in PAGE.read_text("utf-8")
