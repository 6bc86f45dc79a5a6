"""A proxy before a real S3 server that is slow, answers 503, cuts connections as it is told, and counts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Literal, NamedTuple

from tests.conditional_s3 import Handler, Proxy, serving
from tests.s3_server import S3Server

Kind = Literal["503", "cut", "cut after"]
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Trouble:
    """The next `times` requests of `method` whose address has `words` in it: refused with 503, cut before the
    server has them, or cut after the server did what they ask.
    """

    method: str
    words: str
    kind: Kind
    times: int = 1


class Asked(NamedTuple):
    """A request: when it came, in seconds since 1970, and the bytes of its body and of its answer's."""

    at: float
    method: str
    address: str
    sent: int
    got: int


@dataclass
class Troubles:
    """`latency`: seconds before each request. `often`: what happens to each so many-th. `asked`: how many
    there were, by method. `log`: those that were answered.
    """

    latency: float = 0.0
    often: dict[int, Kind] = field(default_factory=dict)
    ahead: list[Trouble] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    log: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, method: str, address: str) -> str | None:
        """What is to go wrong with a request; it is counted."""
        with self.lock:
            self.asked[method] += 1
            for each, kind in self.often.items():
                if self.asked.total() % each == 0:
                    return kind
            for trouble in self.ahead:
                if trouble.times and trouble.method == method and trouble.words in address:
                    trouble.times -= 1
                    return trouble.kind
        return None


class TroubledProxy(Proxy):
    def __init__(self, upstream: S3Server) -> None:
        super().__init__(upstream, TroubledHandler)
        self.troubles = Troubles()


class TroubledHandler(Handler):
    server: TroubledProxy

    def do_PUT(self) -> None:
        time.sleep(self.server.troubles.latency)
        trouble = self.server.troubles.next(self.command, self.path)
        if trouble == "503":
            self.read_body()
            return self.answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        if trouble == "cut":
            self.close_connection = True
            return None
        try:
            return self.cut_after() if trouble == "cut after" else self.pass_on()
        except (ConnectionError, HTTPException):  # the server behind it is down
            self.close_connection = True
            return None

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        sent = int(self.headers.get("Content-Length", 0))
        asked = Asked(time.time(), self.command, self.path, sent, len(content))
        self.server.troubles.log.append(asked)
        super().answer(status, headers, content)

    def cut_after(self) -> None:
        """Let the server do it, and say nothing."""
        self.answer = lambda *_: None  # type: ignore[method-assign]
        self.pass_on()
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT  # type: ignore[assignment]


@contextmanager
def trouble(server: S3Server) -> Iterator[tuple[S3Server, Troubles]]:
    """`server` behind the proxy, until the block ends."""
    with serving(TroubledProxy(server), server) as (proxied, proxy):
        yield proxied, proxy.troubles
