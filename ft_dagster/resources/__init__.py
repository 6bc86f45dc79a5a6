"""The world outside as Dagster resources: tenants with their declarations and store, devices, launchers."""
