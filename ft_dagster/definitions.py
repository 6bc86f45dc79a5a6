"""Assembles the code location; its server forks the runs where it is asked to."""

import os

import dagster as dg

from ft_dagster.automation.forked_runs import fork_runs
from ft_dagster.build import build_defs

fork_runs(os.environ)
defs = dg.Definitions.merge(build_defs(), dg.Definitions(executor=dg.in_process_executor))
