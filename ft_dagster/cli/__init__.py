"""`ft-dagster`: the command line over the same core and the same Dagster instance as the UI."""
# ruff: noqa: I001 - commands are registered in the order in which --help shows them

from ft_dagster.cli.common import app, main
from ft_dagster.cli import project, planning, runs, fleet, releases, experiments, store, audit
from ft_dagster.cli import audit_replay, audit_keys

__all__ = [
    "app",
    "audit",
    "audit_keys",
    "audit_replay",
    "experiments",
    "fleet",
    "main",
    "planning",
    "project",
    "releases",
    "runs",
    "store",
]
