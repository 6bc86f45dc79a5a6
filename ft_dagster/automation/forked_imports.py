"""Imported by the process that runs are forked from (`forked_runs`): what each run needs of libraries."""

import gc
import os
import sys

from ft_dagster.launch.environment import environment_with
from ft_dagster.launch.warm import imports, world

LIBRARIES = (
    "threadpoolctl",  # by which a fork gets its own number of threads
    "dagster",
    "dagster._core.storage.sqlite_storage",  # with what runs and the daemon need of Dagster besides
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
    "pydantic_settings",
    "structlog",
    "jinja2",
    "duckdb",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "torch",
    "torch.utils.flop_counter",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
# PEFT imports bitsandbytes, which asks the driver for its devices.
WITHOUT_GPU = (*LIBRARIES, "torch._dynamo", "peft")
GIVEN = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # or libraries would start threads


def import_them() -> None:
    """As the warm server does, with the environment as it was afterwards. Ends this process where a fork of
    it would not be like a Python just started: the code server spawns its runs then.
    """
    given = {**GIVEN, **imports.environment_for_imports(dict(os.environ))}
    own = tuple(number for number in imports.open_files() if number > 2)
    try:
        with environment_with(given):
            imports.import_all(LIBRARIES if world.has_gpu() else WITHOUT_GPU, own)
    except imports.CannotServe as error:
        sys.exit(f"runs are not forked: {error}")
    gc.collect()
    gc.freeze()


import_them()
