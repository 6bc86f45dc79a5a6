"""Is `ft-dagster`: the command line over the same core and the same Dagster instance as the UI."""
# ruff: noqa: I001 - commands are registered in the order in which --help shows them

from ft_dagster.cli.common import app, main
from ft_dagster.cli import (
    project,
    planning,
    runs,
    compare,
    status,
    fleet,
    costs,
    releases,
    publish,
    reports,
    experiments,
    store,
    audit,
    trace,
    audit_replay,
    audit_keys,
)

__all__ = [
    "app",
    "audit",
    "audit_keys",
    "audit_replay",
    "compare",
    "costs",
    "experiments",
    "fleet",
    "main",
    "planning",
    "project",
    "publish",
    "releases",
    "reports",
    "runs",
    "status",
    "store",
    "trace",
]
