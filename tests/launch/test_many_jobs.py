"""Many short jobs of many tenants on few slots, killed at random: benchmarks/leases.py, smaller."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.leases import Job, bind, plan, run
from tests.present import present

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_jobs_killed_at_random_neither_over_book_nor_break_quotas_nor_starve(tmp_path: Path) -> None:
    jobs = plan(40, tenants=5, kills=0.3, seconds=(1.0, 2.0), seed=7)
    figures = run(jobs, slots=6, folder=tmp_path, in_line=15)
    assert (figures.broken, figures.failed, figures.finished) == ([], [], 40)
    assert figures.killed.total() >= 6
    assert figures.occupancy > 0.75  # of jobs this short the hand-over is a good part
    assert max(figures.waits) < figures.seconds / 2


def test_a_job_notices_that_its_slot_is_in_use(tmp_path: Path) -> None:
    with present(bind(tmp_path, "slot-0")):
        figures = run([Job(0, "tenant-1", 1, 0.1, 0)], slots=1, folder=tmp_path)
    assert figures.broken == ["['0'] of job 0 are in use already"]


def test_a_job_notices_that_its_tenant_holds_more_than_its_quota(tmp_path: Path) -> None:
    with present(bind(tmp_path, "tenant-0-0")):
        figures = run([Job(0, "tenant-0", 1, 0.1, 0)], slots=1, folder=tmp_path)
    assert figures.broken == ["tenant-0 holds more than 1"]
