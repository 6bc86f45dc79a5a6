"""Says by what answers are judged beside their questions: the same answers judged by something else are
another try.
"""

from __future__ import annotations

from ft_dagster.gate.judged_by import scores_digest
from ft_dagster.stages.refusals import declared_prompts
from ft_dagster.store import Artifact
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.judged_once import SCORES

OTHER_TRY = "since {stage} a version was released, or what judges its answers changed: that is another try"
OF_PACKAGE = "built in"  # the prompts of this package, in whichever version


def judged_as(view: View, before: Artifact, tuned: Artifact) -> dict[str, str]:
    """Return by name, as digests: what the values are that the gates compare, the weights in production with
    which they compare the `tuned` ones of an earlier count, and the prompts of which some are to be refused,
    where any are asked. `before`: the base's evaluation. Raises UserError for prompts that cannot be asked.
    """
    gates = view.spec.gates
    found = {SCORES: scores_digest(gates, before.figures["scores"])}
    if gates.regression_margin is not None:
        found |= view.past.held_against(tuned)
    if gates.refusals is not None:
        prompts = OF_PACKAGE if gates.refusals.prompts is None else declared_prompts(view)[0].sha256
        found["refusals"] = prompts
    return found
