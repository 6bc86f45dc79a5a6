"""`data.general.share: auto`: how much general text, by what the version before forgot."""

from __future__ import annotations

from ft_dagster.planning.before import VersionBefore
from ft_dagster.planning.reasons import Reason
from ft_dagster.spec.variant import GeneralSpec, ShareOf

FIELD = "data.general.share"
# The usual span; then a quarter: of all tokens that are read it takes the rise away, at some cost in the
# task, of the trained ones it kept no more than a tenth did (benchmarks/notes/general-text.md).
USUAL, MOST = (0.05, 0.08, 0.10), 0.25
PRIOR = float(GeneralSpec.model_fields["share"].default)


def chosen_share(before: VersionBefore | None, share_of: ShareOf) -> Reason:
    """One step up where the general loss rose past its margin, one down where it did not rise at all; where
    there is no step on that side, the same again.
    """
    if before is None or before.share is None or before.general_rise is None or before.general_margin is None:
        said = "rule: within the usual 5 to 10%; of no version before is it known what it forgot"
        return Reason(FIELD, PRIOR, "built-in", said)
    share, rise, margin = before.share, before.general_rise, before.general_margin
    shares = (*USUAL, MOST) if share_of == "processed" else USUAL
    said = f"measured: with {share:.1%} the version before changed the loss on general text by {rise:+.3f}"
    if rise > margin:
        more = min((each for each in shares if each > share), default=share)
        return Reason(FIELD, more, "measured", f"{said}, past its margin of {margin:g}{_most(more, share)}")
    if rise <= 0:
        less = max((each for each in shares if each < share), default=share)
        return Reason(FIELD, less, "measured", f"{said}: nothing was forgotten{_least(less, share)}")
    return Reason(FIELD, share, "measured", f"{said}, within its margin of {margin:g}")


def _most(more: float, share: float) -> str:
    """Where no larger share is left, what helps instead."""
    return "" if more > share else "; no more helps, a lower training.learning_rate does"


def _least(less: float, share: float) -> str:
    """Where no smaller share is left."""
    return "" if less < share else "; no smaller share is tried"
