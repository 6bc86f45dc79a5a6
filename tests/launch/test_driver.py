"""When a node of a program is taken for lost; without a cluster, which `tests/e2e/test_ray.py` has."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.exit_codes import DONE, TRANSIENT

pytest.importorskip("ray", reason="needs the extra `ray`")

from ray.exceptions import ActorDiedError, ActorUnavailableError

from ft_dagster.launch.on_ray import driver
from ft_dagster.launch.on_ray.driver import Nodes, Poll

AWAY = ActorUnavailableError("the network is mended", None)


def nodes(monkeypatch: pytest.MonkeyPatch, *answers: Callable[[int], Any]) -> Nodes:
    """Nodes of one actor, whose polls are answered in this order, the last for ever."""
    left = list(answers)

    def poll(read: int) -> Callable[[], Any]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return lambda: answer(read)

    actor = SimpleNamespace(
        node_id=SimpleNamespace(remote=lambda: lambda: "a node"), poll=SimpleNamespace(remote=poll)
    )
    monkeypatch.setattr(
        "ray.get", lambda asked: [one() for one in asked] if isinstance(asked, list) else asked()
    )
    return Nodes([actor])


def raises(error: Exception) -> Callable[[int], Any]:
    def answer(_: int) -> Any:
        raise error

    return answer


def prints(text: bytes, code: int | None = None) -> Callable[[int], Poll]:
    return lambda read: Poll(text[read:], code)


def test_a_node_that_is_out_of_reach_for_a_moment_goes_on_and_nothing_of_it_is_lost(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = prints(b"one "), raises(AWAY), prints(b"one two "), raises(AWAY), prints(b"one two three", DONE)
    running = nodes(monkeypatch, *answers)
    for _ in answers:
        assert not running.ended
        running.poll()
    assert running.codes == {0: DONE}
    assert capfd.readouterr().out == "one two three"


def test_a_node_that_stays_out_of_reach_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    running = nodes(monkeypatch, raises(AWAY))
    running.poll()
    assert running.codes == {}
    monkeypatch.setattr(driver, "UNREACHED_SECONDS", 0.0)
    running.poll()
    assert running.codes == {0: TRANSIENT}


def test_a_node_that_died_is_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    running = nodes(monkeypatch, raises(ActorDiedError()))
    running.poll()
    assert running.codes == {0: TRANSIENT}
