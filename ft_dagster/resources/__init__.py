"""Provides the world outside as Dagster resources: tenants with their declarations and store, devices,
launchers.

They are plain objects, and no run configuration reaches them: which project a run works on is decided where
the definitions are built.
"""

import dagster as dg

TENANTS, GPUS, LAUNCHER = "tenants", "gpus", "launcher"  # the names of the resources


def fixed(made: object) -> dg.ResourceDefinition:
    """Return a resource as it is; a run that configures it is refused."""
    return dg.ResourceDefinition(lambda context: made, config_schema={})
