"""The world outside as Dagster resources: tenants' declarations, the store, devices and launchers."""
