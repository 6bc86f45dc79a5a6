"""What the command line imports to submit a run: each command pays for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_graphql_is_not_imported_to_submit_a_run() -> None:
    program = (
        "import sys, ft_dagster.automation.instance, ft_dagster.cli.runs\n"
        "print([name for name in ('graphene', 'dagster_graphql', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
