"""Warns of what a person should know of a mixture beside what it is."""

from __future__ import annotations

from ft_dagster.methods import METHODS
from ft_dagster.objectives import objective_of
from ft_dagster.spec.variant import VariantSpec

USUAL_SHARE = (0.05, 0.10)


def declared_warnings(spec: VariantSpec, general_share: float) -> list[str]:
    """Return what a person should know of a mixture beside the rest of the declaration.

    `general_share`: of general text, as it came out; see `GeneralShare`.

    Not part of the mixture: it says things of fields that the mixture does not depend on.
    """
    lines, (low, high), general = [], USUAL_SHARE, spec.data.general
    known = METHODS.get(spec.method.name)
    if known is not None and not known.freezes and not low <= general_share <= high:
        tokens = "tokens" if general is None else f"{general.share_of} tokens"
        lines.append(
            f"general text is {general_share:.1%} of the {tokens}; "
            f"{low:.0%} to {high:.0%} is usual for full fine-tuning"
        )
    if objective_of(spec.objective).judged_by == "questions" and not spec.evaluation.task:
        lines.append(
            "perplexity alone shows style, not facts: declare evaluation.task with questions of the domain"
        )
    return lines
