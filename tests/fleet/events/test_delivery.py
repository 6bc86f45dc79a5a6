"""Events told to a real HTTP server and to a file: at least once, signed, by nobody held up."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.fleet.events.delivery import EVENT_ID, SIGNATURE, NotDelivered, deliver, send, signature
from ft_dagster.fleet.events.events import FleetEvent
from ft_dagster.fleet.events.outbox import FIRST_WAIT, KEPT, LONGEST_WAIT, Outbox, PendingEvent, wait_after
from ft_dagster.notification_settings import NotificationTarget
from tests.fleet.receiver import Receiver, receiving

pytestmark = pytest.mark.slow

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(f"sqlite:///{tmp_path / 'events.db'}")


def event(happened: str = "run 1", sentence: str = "sentence") -> FleetEvent:
    return FleetEvent("run_failed", "acme.support", NOON.isoformat(), happened, sentence)


def put(outbox: Outbox, *events: FleetEvent, to: str = "ops", now: datetime = NOON) -> None:
    outbox.put(events, {each.id: [to] for each in events}, now)


def hook(receiver: Receiver, **more: Any) -> dict[str, NotificationTarget]:
    return {"ops": NotificationTarget(webhook=receiver.url, **more)}


def told(outbox: Outbox, targets: dict[str, NotificationTarget], at: datetime = NOON) -> dict[str, str]:
    """Deliver; why targets took an event no more."""
    return deliver(
        outbox, targets, Path(outbox.url.removeprefix("sqlite:///")).parent, lambda: at, 5.0
    ).failed


def test_an_event_is_told_once_with_all_that_is_said_of_it(outbox: Outbox, receiver: Receiver) -> None:
    put(outbox, event())
    put(outbox, event())
    assert told(outbox, hook(receiver)) == {}
    assert told(outbox, hook(receiver)) == {}
    ((headers, body),) = receiver.got
    said = json.loads(body)
    assert said == {
        "schema_version": 1, "id": event().id, "kind": "run_failed", "tenant": "acme",
        "variant": "acme.support", "version": None, "at": NOON.isoformat(), "sentence": "sentence",
        "link": None,
    }  # fmt: skip
    assert (headers["path"], headers["Content-Type"]) == ("/hook?x=1", "application/json")
    assert headers[EVENT_ID] == event().id
    assert SIGNATURE not in headers


def test_an_id_is_that_of_what_happened(outbox: Outbox) -> None:
    assert event().id == event(sentence="worded anew").id
    assert event().id != event("run 2").id
    other = FleetEvent("parked", "acme.support", NOON.isoformat(), "run 1", "sentence")
    assert other.id != event().id


def test_what_was_told_as_the_process_was_killed_is_told_again_by_the_same_id(
    outbox: Outbox, receiver: Receiver, tmp_path: Path
) -> None:
    put(outbox, event())
    program = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime\n"
        "from ft_dagster.fleet.events.delivery import deliver\n"
        "from ft_dagster.fleet.events.outbox import Outbox\n"
        "from ft_dagster.notification_settings import NotificationTarget\n"
        "input()\n"
        "targets = {'ops': NotificationTarget(webhook=sys.argv[2])}\n"
        "deliver(Outbox(sys.argv[1]), targets, Path('.'), lambda: datetime.now(UTC))\n"
    )
    command = [sys.executable, "-c", program, outbox.url, receiver.url]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path)
    receiver.before_answer = child.kill
    child.communicate(b"\n", timeout=60)
    assert child.returncode == -signal.SIGKILL
    receiver.before_answer = lambda: None
    told(outbox, hook(receiver))
    assert receiver.ids == [event().id] * 2
    assert receiver.got[0][1] == receiver.got[1][1]


def test_a_target_that_fails_is_tried_again_later_and_later(outbox: Outbox, receiver: Receiver) -> None:
    put(outbox, event())
    receiver.answers = [500, 503, 204]
    assert told(outbox, hook(receiver)) == {"ops": "answered 500"}
    assert told(outbox, hook(receiver), NOON + FIRST_WAIT / 2) == {}
    assert len(receiver.got) == 1
    assert told(outbox, hook(receiver), NOON + FIRST_WAIT) == {"ops": "answered 503"}
    assert outbox.states()["ops"] == (1, 2, "answered 503")
    assert told(outbox, hook(receiver), NOON + 2 * FIRST_WAIT) == {}
    assert len(receiver.got) == 2
    assert told(outbox, hook(receiver), NOON + 3 * FIRST_WAIT) == {}
    assert receiver.ids == [event().id] * 3
    assert outbox.states() == {}


def test_a_wait_doubles_up_to_an_hour() -> None:
    assert [wait_after(failures) / MINUTE for failures in (1, 2, 3)] == [1, 2, 4]
    assert wait_after(500) == LONGEST_WAIT


def test_an_event_that_is_never_taken_does_not_hold_up_the_others(outbox: Outbox, receiver: Receiver) -> None:
    put(outbox, event("poison"))
    receiver.answers = [400, 204]
    told(outbox, hook(receiver))
    put(outbox, event("good"), now=NOON + MINUTE)
    told(outbox, hook(receiver), NOON + FIRST_WAIT)
    assert receiver.ids[1] == event("good").id


def test_events_are_told_in_the_order_in_which_they_happened(outbox: Outbox, receiver: Receiver) -> None:
    events = [
        replace(event(f"run {minute}"), at=(NOON + minute * MINUTE).isoformat()) for minute in (4, 1, 3, 0, 2)
    ]
    put(outbox, *events)
    told(outbox, hook(receiver))
    said = [json.loads(body)["at"] for _, body in receiver.got]
    assert said == sorted(said)
    assert len(said) == 5


def test_ten_thousand_events_are_put_in_at_once(outbox: Outbox) -> None:
    events = [event(f"run {number}") for number in range(10_000)]
    began = time.process_time()
    put(outbox, *events)
    put(outbox, *events)
    assert time.process_time() - began < 5
    assert outbox.states()["ops"].waiting == len(events)


def test_a_redirect_is_not_followed(outbox: Outbox, receiver: Receiver) -> None:
    put(outbox, event())
    for status in (301, 302, 307, 308):
        receiver.answers = [status]
        failed = told(outbox, hook(receiver), NOON + timedelta(days=status))
        assert failed == {"ops": f"answered {status}, a redirect, which is not followed"}
    assert len(receiver.got) == 4


def test_a_body_is_signed_by_the_secret_and_the_secret_stands_nowhere(
    outbox: Outbox, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "never-to-be-seen"
    monkeypatch.setenv("OPS_SECRET", secret)
    put(outbox, event())
    receiver.answers = [500, 204]
    failed = told(outbox, hook(receiver, secret_env="OPS_SECRET"))
    assert secret not in str(failed)
    told(outbox, hook(receiver, secret_env="OPS_SECRET"), NOON + MINUTE)
    headers, body = receiver.got[-1]
    assert headers[SIGNATURE] == signature(secret, body)
    assert signature("another", body) != headers[SIGNATURE] != signature(secret, body + b" ")
    assert secret.encode() not in body + Path(outbox.url.removeprefix("sqlite:///")).read_bytes()


def test_without_its_secret_nothing_is_sent(outbox: Outbox, receiver: Receiver) -> None:
    put(outbox, event())
    failed = told(outbox, hook(receiver, secret_env="NOT_SET_ANYWHERE"))
    assert failed == {"ops": "its secret is not there: environment variable NOT_SET_ANYWHERE"}
    assert receiver.got == []


def test_why_a_target_failed_never_holds_its_address(outbox: Outbox) -> None:
    put(outbox, event())
    target = {"ops": NotificationTarget(webhook="http://127.0.0.1:1/T00/secret-path")}
    (why,) = told(outbox, target).values()
    assert "secret-path" not in why
    assert "127.0.0.1" not in why


def test_a_slow_target_holds_up_neither_the_tick_nor_the_others(outbox: Outbox, receiver: Receiver) -> None:
    put(outbox, event("a"), to="slow")
    put(outbox, event("b"), to="quick")
    receiver.before_answer = lambda: time.sleep(3)
    with receiving() as other:
        targets = {
            "slow": NotificationTarget(webhook=receiver.url, timeout_seconds=2.0),
            "quick": NotificationTarget(webhook=other.url),
        }
        began = time.monotonic()
        first = deliver(outbox, targets, Path(), lambda: NOON, 0.7)
        second = deliver(outbox, targets, Path(), lambda: NOON, 0.7)
        assert time.monotonic() - began < 1.9
        assert (first.told, first.slow, second.slow) == (1, ("slow",), ("slow",))
        assert other.ids == [event("b").id]
    assert len(receiver.got) == 1  # no second thread tells what the first still does
    end = time.monotonic() + 9
    while outbox.states()["slow"].failures == 0 and time.monotonic() < end:
        time.sleep(0.02)
    assert outbox.states()["slow"] == (1, 1, "no answer within 2 s")


def test_an_answer_that_drips_is_cut(outbox: Outbox, tmp_path: Path) -> None:
    """Each byte comes in time, and the whole does not."""
    import socket

    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        taken, _ = listening.accept()
        try:
            for byte in b"HTTP/1.1 204 No Content\r\n" + b"X: y\r\n" * 1000:
                taken.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            taken.close()

    threading.Thread(target=drip, daemon=True).start()
    put(outbox, event())
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    began = time.monotonic()
    failed = told(outbox, {"ops": NotificationTarget(webhook=url, timeout_seconds=0.5)})
    assert failed == {"ops": "no answer within 0.5 s"}
    assert time.monotonic() - began < 2
    listening.close()


def test_a_file_gets_a_line_an_event(outbox: Outbox, tmp_path: Path) -> None:
    target = {"ops": NotificationTarget(file="told/events.jsonl")}
    put(outbox, event("a"), event("b"))
    assert told(outbox, target) == {}
    file = tmp_path / "told" / "events.jsonl"
    with file.open("a") as half:
        half.write('{"id": "torn')
    put(outbox, event("c"))
    told(outbox, target)
    lines = file.read_text().splitlines()
    whole = [json.loads(line)["id"] for line in (lines[0], lines[1], lines[3])]
    assert sorted(whole[:2]) == sorted([event("a").id, event("b").id])
    assert whole[2] == event("c").id


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_file_that_is_none_is_not_written_to(outbox: Outbox, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "events.jsonl"
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(file)
    put(outbox, event())
    (why,) = told(outbox, {"ops": NotificationTarget(file="events.jsonl")}).values()
    assert why.startswith("its file")
    assert not (tmp_path / "elsewhere").exists()


def test_a_line_that_a_full_disk_cuts_off_is_not_told(tmp_path: Path) -> None:
    target, waits = NotificationTarget(file="events.jsonl"), PendingEvent("1", b'{"id": "1"}', 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
    try:
        with pytest.raises(NotDelivered, match="the disk is full"):
            send(target, waits, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    send(target, waits, tmp_path)
    assert (tmp_path / "events.jsonl").read_bytes() == b'{"id"\n{"id": "1"}\n'


def test_what_was_told_long_ago_is_forgotten_and_what_waits_is_not(
    outbox: Outbox, receiver: Receiver
) -> None:
    put(outbox, event("told"))
    told(outbox, hook(receiver))
    put(outbox, event("waits"))
    later = NOON + KEPT + MINUTE
    outbox.forget_old(later, ["ops"])
    assert outbox.unknown([event("told"), event("waits")]) == [event("told")]
    assert outbox.states()["ops"].waiting == 1


def test_what_waits_for_a_target_that_is_declared_no_longer_is_forgotten(outbox: Outbox) -> None:
    both = {event("both").id: ["ops", "gone"]}
    outbox.put([event("both")], both, NOON)
    put(outbox, event("alone"), to="gone")
    outbox.forget_old(NOON + KEPT + MINUTE, ["ops"])
    assert outbox.unknown([event("both"), event("alone")]) == [event("alone")]
    outbox.forget_old(NOON + KEPT + MINUTE, [])
    assert outbox.unknown([event("both")]) == [event("both")]
    assert outbox.states() == {}
