"""Shows the tokens of a mixture as people read them: of each source, and what general text is a share of."""

from __future__ import annotations

from collections.abc import Mapping

from ft_dagster.data.mixture.mixture_figures import COUNTED, MixtureFigures
from ft_dagster.report.charts.svg import Bar
from ft_dagster.report.figures import count, percent

OF = {"processed": "all tokens", "trained": "the trained tokens"}


def general_share(figures: MixtureFigures) -> str:
    """Return "10.0% of all tokens, 10.0% asked"."""
    share = figures.general_share
    return f"{percent(share.realized)} of {OF[figures.share_of]}, {percent(share.asked)} asked"


def source_shares(figures: MixtureFigures) -> tuple[str, dict[str, str]]:
    """Return of which tokens they are; source -> its share, as that of general text is counted."""
    shares = figures.train.shares(figures.share_of)
    return OF[figures.share_of], {source: percent(share) for source, share in shares.items()}


def source_bars(figures: MixtureFigures, names: Mapping[str, str] | None = None) -> list[Bar]:
    """Return a bar for the tokens of each source with its share; `names`: of the sources, as people know
    them.
    """
    named, (_, shares) = names or {}, source_shares(figures)
    parts = figures.train.by_source.items()
    tokens = {source: getattr(part, COUNTED[figures.share_of]) for source, part in parts}
    return [Bar(named.get(s, s), tokens[s], f"{count(tokens[s])} ({shares[s]})") for s in tokens]
