"""A code location of somebody else's, whose jobs bear the names of ours."""

import dagster as dg


@dg.op
def nothing() -> None:
    pass


@dg.job(tags={"dagster-k8s/config": {"container_config": {"resources": {"limits": {"cpu": "1"}}}}})
def variant_chain() -> None:
    nothing()


@dg.asset
def their_table() -> None:
    pass


defs = dg.Definitions(assets=[their_table], jobs=[variant_chain])
