"""The code location, assembled; nothing else."""

import dagster as dg

from ft_dagster.build import build_defs

defs = dg.Definitions.merge(build_defs(), dg.Definitions(executor=dg.in_process_executor))
