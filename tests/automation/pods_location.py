"""A code location with variants, and a job of somebody else's with a pod of its own."""

import time

import dagster as dg

from ft_dagster.definitions import defs as own


@dg.op
def nothing() -> None:
    pass


@dg.job(tags={"dagster-k8s/config": {"container_config": {"resources": {"limits": {"cpu": "1"}}}}})
def others() -> None:
    nothing()


@dg.job
def plain() -> None:
    nothing()


@dg.op
def long() -> None:
    time.sleep(120)


@dg.job
def takes_long() -> None:
    long()


@dg.sensor(
    job_name="variant_chain", minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING
)
def asks(_context: dg.SensorEvaluationContext) -> dg.RunRequest:
    forged = {"dagster-k8s/config": {"pod_spec_config": {"host_network": True}}}
    return dg.RunRequest(run_key="once", partition_key="acme.sensed", tags=forged)


defs = dg.Definitions.merge(own, dg.Definitions(jobs=[others, plain, takes_long], sensors=[asks]))
