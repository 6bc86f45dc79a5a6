"""Computes Gaffke's test of a mean of bounded values: valid for few, lumpy and unequal ones, where t
collapses.

Values y_1 ... y_n of independent units, none of which can lie below -worst. "The mean is 0 or below" has

    p = P(E_1 y_1 + ... + E_n y_n - E_0 worst <= 0),   E_j independent, exponential of mean 1

so that one more unit, the worst there can be, always stands beside those that were seen (Gaffke, Mathematical
Methods of Statistics 14 (2005) 451; the bound that inverts it: Learned-Miller and Thomas, arXiv 1905.06208).
Of values that are right or wrong it is Clopper and Pearson's exact bound, of gains and losses McNemar's exact
test. That it never errs more often than said is proven for those and conjectured for all;
docs/gates-statistics.md says how a counterexample was looked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_POINTS, _REACH = 64, 11.0  # of the integral, which ends where its terms are below e^-22
_FINE, _FAR = (
    (256, 14.0),
    30.0,
)  # where the worst is so many times as far from 0 as the best: p to 1e-3 at 1,000
_ROOM = 2_000_000  # terms of it that are held at once
_HALVINGS = 24
_PRECISION = 1e-7


def mean_p(values: Any, worst: Any, counts: Any = None) -> Any:
    """Return p of "the mean is 0 or below". `values`: shape [..., n]; `worst` > 0: shape [...]; p: shape
    [...].

    `counts`: how often each value occurs, as `values`; else once.
    """
    import numpy as np

    values = np.asarray(values, float)
    last = -np.broadcast_to(np.asarray(worst, float), values.shape[:-1])[..., None]
    terms = np.concatenate([values, last], axis=-1)
    often = np.ones_like(values) if counts is None else np.broadcast_to(counts, values.shape)
    often = np.concatenate([often, np.ones_like(last)], axis=-1)
    terms = np.where(often > 0, terms, 0.0)
    flat, share = terms.reshape(-1, terms.shape[-1]), often.reshape(-1, terms.shape[-1])
    found = np.where((flat > 0).any(axis=-1), 0.0, 1.0)  # all above, or all at or below
    mixed = (flat > 0).any(axis=-1) & (flat < 0).any(axis=-1)
    if mixed.any():
        found[mixed] = _at_or_below_zero(flat[mixed], share[mixed])
    return found.reshape(terms.shape[:-1])


def lower_bound(
    values: Array, sizes: Array, floor: float, *, level: float, largest: float | None = None
) -> float:
    """Return the bound that a mean, weighted by `sizes`, is above, but for a chance of `level`. No value lies
    below `floor`.

    The largest m of which "the mean is m or below" has p <= `level`. One more unit, of the size `largest`,
    is taken to lie at `floor`; None: it is as large as the largest of them.
    """
    import numpy as np
    from scipy.optimize import brentq

    share, top = sizes / (largest or sizes.max()), float(values.max())
    if top <= floor:
        return floor
    pairs, counts = np.unique(np.stack([values, share]), axis=1, return_counts=True)

    def excess(mean: float) -> float:
        p = float(mean_p(pairs[1] * (pairs[0] - mean), mean - floor, counts))
        return math.log(max(p, 1e-300) / level)

    return float(brentq(excess, floor, top, xtol=_PRECISION))


def _at_or_below_zero(terms: Array, counts: Array) -> Array:
    """Return P(sum of terms x exponentials <= 0) of each row, which has terms of either sign; `counts`: of
    each.

    The inversion integral of the moment generating function M(z) = prod (1 - z term)^-count,

        p = (1 / pi) int_0^inf Re( M(s + iy) / -(s + iy) ) dy,

    along a line through its saddle point s < 0, where it does not swing, by the trapezoid rule in asinh(y).
    """
    import numpy as np

    lowest = -terms.min(axis=-1)
    saddle = -_saddle(terms, counts, lowest) / lowest
    bent = np.square(terms / (1 - saddle[:, None] * terms))
    scale = 1 / np.sqrt((counts * bent).sum(axis=-1) + 1 / saddle**2)
    points, reach = _FINE if (lowest > _FAR * terms.max(axis=-1)).any() else (_POINTS, _REACH)
    grid = np.linspace(0.0, reach, points + 1)
    weights = np.cosh(grid) * np.where(grid == 0, 0.5, 1.0)
    found, at_once = np.zeros(len(terms)), max(1, _ROOM // terms.size)
    for first in range(0, len(grid), at_once):
        part = slice(first, first + at_once)
        z = saddle[:, None] + 1j * scale[:, None] * np.sinh(grid[part])
        logs = np.log(1 - z[..., None] * terms[:, None, :])
        log = -(counts[:, None, :] * logs).sum(axis=-1) - np.log(-z)
        found += (weights[part] * np.exp(log).real).sum(axis=-1)
    return np.clip(found * scale * grid[1] / math.pi, 0.0, 1.0)


def _saddle(terms: Array, counts: Array, lowest: Array) -> Array:
    """Return x in (0, 1) at which log M(z) - log(-z) is least for z = -x / lowest, by halving."""
    import numpy as np

    low, high = np.zeros(len(terms)), np.ones(len(terms))
    for _ in range(_HALVINGS):
        x = (low + high) / 2
        z = -x / lowest
        slope = (counts * terms / (1 - z[:, None] * terms)).sum(axis=-1) - 1 / z
        low, high = np.where(slope > 0, x, low), np.where(slope > 0, high, x)
    return (low + high) / 2
