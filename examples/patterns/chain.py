"""One variant from its declaration to a judged export, by Python alone: no Dagster, no daemon.

    python examples/patterns/chain.py PROJECT tenant.variant

What is in the store is taken from there, and what is made is found there by everything else: a run through
Dagster afterwards makes nothing again, and releases it.
"""

import sys

from ft_dagster import CHAIN, UserError, VariantKey, Workspace, load_settings, run_chain


def main(project: str, variant: str) -> int:
    try:
        workspace = Workspace(load_settings(project), VariantKey.parse(variant))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    outcome = run_chain(workspace)
    for stage in CHAIN:
        artifact = outcome.made.get(stage.name)
        if artifact is not None:
            how = "was there" if artifact.reused else "made"
            print(f"{stage.name:18} {artifact.digest[:12]} {how}")
    if outcome.error is not None:
        print(outcome.error, file=sys.stderr)
        return 1
    plan, export = outcome.made["training_plan"], outcome.made["model_export"]
    print(f"method: {plan.figures['method']['name']}")
    print(f"exported: {workspace.payload(export)}")
    print(f"released by: ft-dagster --project {project} run {variant}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
