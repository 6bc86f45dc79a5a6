"""The code location, assembled; nothing else."""

from ft_dagster.build import build_defs

defs = build_defs()
