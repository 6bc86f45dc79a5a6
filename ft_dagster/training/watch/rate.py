"""Judges from the first steps whether a learning rate is far off: too high, and the loss climbs; too low, and
it stands still.

Pure functions over the loss of each step, compared by their logarithms, since noise grows with the loss. The
first step's came before any update, and so did the validation loss at step 0: the higher of the two is what
others are held to, since one batch may be an easy one. Noise is that of the batches, from the differences of
neighbouring steps, which a trend hardly touches; a jump only adds to it. Looked at once, so that the same
losses are always judged alike, before and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Literal

from ft_dagster.errors import UserError

Verdict = Literal["too high", "too low"]

FEWEST = 16  # steps that are looked at: with fewer, half of them have no mean to speak of
SHARE = 0.1  # of the training's steps after the warmup
RISE = 0.1  # of the loss before any update: the second half of these steps lies above it by more
FALL = 0.02  # of the first half's mean: the second half lies below it by less
SIGMAS = 4.0  # of batch noise, to call a rise one: by simulation 1 of 1,000 where nothing is learned
SURE = 2.0  # of batch noise, to call a change small
LEAST = 1e-6  # nats: below it nothing is left to learn
NOTCH = 1 / 3  # times the rate: as far apart as those of a probe


class RateTooHigh(UserError):
    """Signals a rate that the first steps show to be too high: the training ends, or begins again at a lower
    rate.
    """


def looked_at(steps: int, warmup: float) -> int | None:
    """Return the step after which the rate is judged; None for a training so short that there is nothing to
    save.
    """
    at = max(FEWEST, math.ceil((warmup + SHARE) * steps))
    return at if 2 * at <= steps else None


def judged(losses: Sequence[float], validation: float | None = None) -> Verdict | None:
    """Judge the losses of the first steps by the rules above; None where they say nothing against the rate,
    or fewer than FEWEST of the steps had a label.

    `validation`: the validation loss at step 0, None where there is none.
    """
    if len(losses) < FEWEST:
        return None
    logs, half = _logs(losses), len(losses) // 2
    noise, (start,) = batch_noise(losses), _logs([untrained(losses, validation)])
    before, after = fmean(logs[:half]), fmean(logs[half:])
    if after - start > max(math.log1p(RISE), SIGMAS * noise * math.sqrt(1 + 1 / half)):
        return "too high"
    margin = SURE * noise * math.sqrt(2 / half)
    learned = after <= math.log(LEAST)
    if not learned and after - before <= margin and before - after + margin < FALL:
        return "too low"
    return None


def untrained(losses: Sequence[float], validation: float | None) -> float:
    """Return the loss before any update."""
    if validation is None or not math.isfinite(validation):
        return losses[0]
    return max(losses[0], validation)


def batch_noise(losses: Sequence[float]) -> float:
    """Return the standard deviation of one step's loss about its trend, as a share of it (von Neumann's, of
    successive differences).
    """
    squares = [(after - before) ** 2 for before, after in pairwise(_logs(losses))]
    return math.sqrt(sum(squares) / (2 * len(squares)))


def _logs(losses: Sequence[float]) -> list[float]:
    return [math.log(max(loss, LEAST)) for loss in losses]


def sentence(verdict: Verdict, losses: Sequence[float], validation: float | None = None) -> str:
    """Say the verdict with the figures that it rests on; `validation` as of `judged`."""
    half = len(losses) // 2
    noise, after = batch_noise(losses), fmean(losses[half:])
    if verdict == "too high":
        return (
            f"the learning rate is too high: the loss of steps {half + 1} to {len(losses)} is {after:.3f} in "
            f"the mean, and was {untrained(losses, validation):.3f} before any update (noise of a batch "
            f"{noise:.1%})"
        )
    return (
        f"the learning rate may be too low: from steps 1 to {half} to steps {half + 1} to {len(losses)} the "
        f"mean loss went from {fmean(losses[:half]):.3f} to {after:.3f} (noise of a batch {noise:.1%})"
    )
