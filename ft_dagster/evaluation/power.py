"""How many questions a paired comparison needs, and what so many can show: arithmetic for plans and verdicts.

Both directions of one formula, that of the score test which `paired` applies to right-or-wrong answers.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from ft_dagster.errors import UserError

ALPHA = 0.05  # one-sided level of each test
POWER = 0.80
DISCORDANT = 0.10  # share of the answers that differ between base and tuned model, before any is known


def questions_needed(
    margin: float, *, discordant: float = DISCORDANT, power: float = POWER, alpha: float = ALPHA
) -> int:
    """Questions, asked of both models, that show a fall to be below `margin` (a share: 0.02 is 2 points).

    Paired non-inferiority by the score test where nothing truly fell and the share `discordant` of the
    answers differs, as many lost as gained. A difference has variance `discordant` then, and under a fall of
    `margin`

        v = (sqrt(discordant^2 + 4 margin^2 (1 - discordant)) + discordant) / 2 - margin^2

    by restricted maximum likelihood, so that with probability `power` the test of level `alpha` passes at

        n = ((z(1 - alpha) sqrt(v) + z(power) sqrt(discordant)) / margin)^2

    After Nam, Biometrics 53 (1997) 1422, and Liu et al., Statistics in Medicine 21 (2002) 231. Raises
    UserError for a margin that is not above 0 and at most 1.
    """
    if not 0 < margin <= 1:
        raise UserError(
            "no number of questions shows a margin that is not above 0 and at most 1",
            field="margin",
            value=margin,
            fix="Allow a fall, such as 0.02",
        )
    inner = math.sqrt(discordant**2 + 4 * margin**2 * (1 - discordant))
    restricted = max(0.0, (inner + discordant) / 2 - margin**2)
    z = NormalDist().inv_cdf
    errors = z(1 - alpha) * math.sqrt(restricted) + z(power) * math.sqrt(discordant)
    return max(1, math.ceil((errors / margin) ** 2))


def margin_seen(
    questions: int, *, discordant: float = DISCORDANT, power: float = POWER, alpha: float = ALPHA
) -> float:
    """The smallest margin (a share) that so many questions can show; 1.0 where they can show none.

    `questions_needed`, solved for the margin.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        enough = questions_needed(middle, discordant=discordant, power=power, alpha=alpha) <= questions
        low, high = (low, middle) if enough else (middle, high)
    return high


def errors_apart(*, power: float = POWER, alpha: float = ALPHA) -> float:
    """Standard errors between no effect and one that a test of level `alpha` shows with this power."""
    z = NormalDist().inv_cdf
    return z(1 - alpha) + z(power)
