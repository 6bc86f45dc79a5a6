"""Makes acme.places as a run does: `make.py PROJECT RUN_ID STAGE [EXPIRY]`, up to a stage, or that alone.

Exits with 3, and says why, where the stage was not made.
"""

import sys
from collections.abc import Sequence

from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import CHAIN, run_chain, up_to
from ft_dagster.store import training_claim
from ft_dagster.workspace.workspace import RunOf, Workspace


def say(line: str) -> None:
    print(line, flush=True)


def main(project: str, run_id: str, stage: str, expiry: Sequence[str]) -> int:
    workspace = Workspace(load_settings(project), VariantKey("acme", "places"), RunOf(run_id, say=say))
    if expiry:
        training_claim.EXPIRY = float(expiry[0])
        stages = [each for each in CHAIN if each.name == stage]
    else:
        stages = list(up_to(stage))
    outcome = run_chain(workspace, stages)
    say(outcome.error or f"digest {outcome.made[stage].digest}")
    return 3 if outcome.error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
