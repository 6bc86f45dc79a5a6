"""Is `ft-dagster`: the command line over the same core and the same Dagster instance as the UI."""

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import main

__all__ = ["app", "main"]
