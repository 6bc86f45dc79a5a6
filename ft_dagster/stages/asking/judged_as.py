"""Says by what answers are judged beside their questions: the same answers judged by something else are
another try.
"""

from __future__ import annotations

from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stages.refusals import declared_prompts
from ft_dagster.workspace.input_view import View

SCORED = ("metrics", "weights", "loss_bound")  # of the gates: which values are compared, and how they count
OF_PACKAGE = "built in"  # the prompts of this package, in whichever version


def judged_as(view: View) -> dict[str, str]:
    """Return digests by name: of what the values are that the gates compare, and of the prompts of which some
    are to be refused, where any are asked. Raises UserError for prompts that cannot be asked.
    """
    gates = view.spec.gates
    found = {"scores": sha256_json({name: getattr(gates, name) for name in SCORED})}
    if gates.refusals is not None:
        prompts = OF_PACKAGE if gates.refusals.prompts is None else declared_prompts(view)[0].sha256
        found["refusals"] = prompts
    return found
