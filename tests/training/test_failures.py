"""Failures of the machine become errors that say what to do."""

from __future__ import annotations

import errno

import pytest

from ft_dagster.training.contract import read_run
from ft_dagster.training.failures import explained_failure
from tests.training.runs import Runs


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (
            RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
            "the disk is full",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
        (MemoryError(), "out of memory"),
        (
            RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set …"),
            "what a GPU cannot in a fixed order: cumsum_cuda_kernel",
        ),
    ],
)
def test_what_a_person_can_mend_is_explained(runs: Runs, error: Exception, said: str) -> None:
    member = read_run(runs.prepare()).members[0]
    member.output.mkdir(parents=True)
    known = explained_failure(error, member)
    assert known is not None
    assert said in known.problem


def test_what_nobody_foresaw_stays_what_it_is(runs: Runs) -> None:
    member = read_run(runs.prepare()).members[0]
    member.output.mkdir(parents=True)
    assert explained_failure(KeyError("x"), member) is None
