"""commit.py STORE WORK: make one artifact of many files in a store, as a stage's asset does."""

import sys
from pathlib import Path
from typing import Any

from ft_dagster.store import Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact

FILES = 150


def build(attempt: Attempt) -> dict[str, Any]:
    for number in range(FILES):
        (attempt.payload / f"{number:04d}.bin").write_bytes(bytes([number]) * 2**20)
    return {"files": FILES}


recipe = Recipe("declaration", "tenants/acme/support", spec={"of": "chaos"}, variant="acme.support")
print(make_artifact(Store(sys.argv[1]), Path(sys.argv[2]), recipe, build).digest)
