"""The code location with a sensor that asks for runs, which ours has none of."""

import dagster as dg

from ft_dagster.automation.jobs import JOB
from ft_dagster.definitions import defs as own


@dg.sensor(job_name=JOB, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=1)
def asks() -> dg.RunRequest:
    return dg.RunRequest(partition_key="acme.sensed")


defs = dg.Definitions.merge(own, dg.Definitions(sensors=[asks]))
