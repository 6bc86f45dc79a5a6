"""Ten kills of anything and a cancel, under the units of deploy/one-machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.drill import drill
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_each_variant_that_is_due_is_retrained_once_whatever_is_killed(
    tmp_path: Path, tiny_model_folder: Path, postgres: PostgresServer
) -> None:
    drill(tmp_path, tiny_model_folder, 1, postgres)
