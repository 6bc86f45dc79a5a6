"""The watcher of a forked rank: what it says of the rank's end, and which signals it passes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from ft_dagster.training.forked_ranks import Ends, Main, watch_rank


def in_a_child(main: Main, ends: Ends, after: Callable[[], object]) -> int:
    """The pid of a process that watches a rank which runs `main`, and goes on with `after` if it may."""
    child = os.fork()
    if child == 0:
        os.environ["LOCAL_RANK"] = "0"
        try:
            watch_rank(main, ends, "run")
            after()
        finally:
            os._exit(99)
    return child


def killed(_: list[str]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def fails(_: list[str]) -> int:
    raise RuntimeError("said on purpose")


@pytest.mark.slow
@pytest.mark.parametrize(("main", "code"), [(lambda _: 2, 2), (fails, 1), (killed, -signal.SIGKILL)])
def test_a_watcher_leaves_as_its_rank_did_and_leaves_word(main: Main, code: int) -> None:
    ends = Ends(1)
    child = in_a_child(main, ends, lambda: None)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (code if code > 0 else 128 - code)
    assert [code for code, _ in ends.failed()] == [code]
    assert ends.silent() == 0


def test_a_killed_watcher_leaves_no_word() -> None:
    ready, tell = os.pipe()

    def waits(_: list[str]) -> int:
        os.write(tell, b"x")
        signal.pause()
        return 0

    ends = Ends(1)
    child = in_a_child(waits, ends, lambda: None)
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (ends.failed(), ends.silent()) == ([], 1)


def test_a_signal_to_a_watcher_reaches_its_rank() -> None:
    ready, tell = os.pipe()

    def waits(_: list[str]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # kept, however soon it comes
        os.write(tell, b"x")
        signal.sigwait([signal.SIGTERM])
        os._exit(75)

    ends = Ends(1)
    child = in_a_child(waits, ends, lambda: None)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    assert [code for code, _ in ends.failed()] == [75]


def test_once_its_rank_ended_well_a_signal_ends_the_watcher_and_is_sent_nowhere() -> None:
    """The rank's number may be another process' by then."""
    ready, tell = os.pipe()

    def goes_on() -> None:
        os.write(tell, b"x")
        signal.pause()

    ends = Ends(1)
    child = in_a_child(lambda _: 0, ends, goes_on)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
    assert ends.failed() == []
