"""Delivers events to their targets: by POST to a webhook, or as a line of a file. Nothing is run.

At least once: a target that took an event is noted after that, so one that was told as this process was
killed is told again, by the same id.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from ft_dagster.errors import UserError
from ft_dagster.fleet.events.outbox import Outbox, PendingEvent
from ft_dagster.notification_settings import NotificationTarget

SIGNATURE, EVENT_ID = "X-FT-Dagster-Signature", "X-FT-Dagster-Event"
TICK_SECONDS = 5.0  # of one tick, for all targets at once
_busy: set[tuple[str, str]] = set()  # targets that a thread of this process is still telling
_guard = threading.Lock()


class NotDelivered(Exception):
    """Says why a target did not take an event: never its address, which may be a secret itself."""


class Delivered(NamedTuple):
    """Reports a delivery. `told`: events that targets took; `failed`: target -> why it took one no more;
    `slow`: those that were not done in time.
    """

    told: int
    failed: dict[str, str]
    slow: tuple[str, ...]


def deliver(
    outbox: Outbox,
    targets: Mapping[str, NotificationTarget],
    project: Path,
    clock: Callable[[], datetime],
    limit: float = TICK_SECONDS,
) -> Delivered:
    """Tell each target what waits for it, for `limit` seconds, all targets at once. After a failure a target
    is left alone for a while; one that takes too long holds up nobody, and is not told twice at once.
    """
    told, failed = list[str](), dict[str, str]()
    end = time.monotonic() + limit

    def tell(name: str) -> None:
        try:
            while time.monotonic() < end and (event := outbox.next_for(name, clock())) is not None:
                try:
                    send(targets[name], event, project)
                except NotDelivered as error:
                    failed[name] = str(error)
                    outbox.failed(event, name, str(error), clock())
                    return
                outbox.told(event.id, name, clock())
                told.append(event.id)
        except UserError as error:  # of the outbox
            failed[name] = str(error)
        finally:
            with _guard:
                _busy.discard((outbox.url, name))

    threads = {
        name: threading.Thread(target=tell, args=[name], daemon=True) for name in _free(outbox, targets)
    }
    for thread in threads.values():
        thread.start()
    for thread in threads.values():
        thread.join(max(0.0, end - time.monotonic()))
    slow = [name for name in targets if name not in threads or threads[name].is_alive()]
    return Delivered(len(told), dict(failed), tuple(slow))


def _free(outbox: Outbox, targets: Mapping[str, NotificationTarget]) -> list[str]:
    """Take the targets that nobody else is telling."""
    with _guard:
        free = [name for name in targets if (outbox.url, name) not in _busy]
        _busy.update((outbox.url, name) for name in free)
    return free


def send(target: NotificationTarget, event: PendingEvent, project: Path) -> None:
    """Raises NotDelivered."""
    if target.webhook is not None:
        _post(target, target.webhook, event)
    elif target.file is not None:
        _append(project / target.file, event.body)


def signature(secret: str, body: bytes) -> str:
    """Return the value of the header by which an event's body is signed."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def _post(target: NotificationTarget, address: str, event: PendingEvent) -> None:
    """Post a body. A redirect is an answer like any other that is no success."""
    parts, seconds = urlsplit(address), target.timeout_seconds
    headers = {"Content-Type": "application/json", "User-Agent": "ft-dagster", EVENT_ID: event.id}
    if target.secret_env is not None:
        headers[SIGNATURE] = signature(_secret(target.secret_env), event.body)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    late = threading.Event()
    timer = threading.Timer(seconds, _cut, [connection, late])
    timer.daemon = True
    timer.start()
    try:
        connection.request("POST", _path(parts.path, parts.query), event.body, headers)
        status = connection.getresponse().status
    except TimeoutError:
        raise NotDelivered(f"no answer within {seconds:g} s") from None
    except (OSError, HTTPException, ValueError) as error:
        said = f"no answer within {seconds:g} s" if late.is_set() else type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            said = "its certificate does not hold"
        raise NotDelivered(said) from None
    finally:
        timer.cancel()
        connection.close()
    if not 200 <= status < 300:
        redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
        raise NotDelivered(f"answered {status}{redirect}")


def _path(path: str, query: str) -> str:
    return f"{path or '/'}?{query}" if query else path or "/"


def _cut(connection: HTTPConnection, late: threading.Event) -> None:
    """End a connection that drips: time-outs of sockets count each byte anew."""
    late.set()
    held = connection.sock
    if held is not None:
        with suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)


def _secret(name: str) -> str:
    secret = os.environ.get(name)
    if not secret:
        raise NotDelivered(f"its secret is not there: environment variable {name}")
    return secret


def _append(file: Path, body: bytes) -> None:
    """Append a line of its own, also after one that a killed process did not end."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o600)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise NotDelivered("its file is no regular one")
            broken = found.st_size > 0 and os.pread(descriptor, 1, found.st_size - 1) != b"\n"
            line = (b"\n" if broken else b"") + body + b"\n"
            if os.write(descriptor, line) < len(line):
                raise NotDelivered("its file took a part: the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotDelivered(f"its file cannot be written: {error.strerror}") from None
