"""A proxy before a real S3 server that does what that one does not: refuse `If-None-Match: *`.

rclone takes the header and overwrites all the same. All else passes as it is: the signature covers the host
that the client named, so the headers are passed on untouched.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from tests.s3_server import S3Server

REFUSED = (
    b"<Error><Code>PreconditionFailed</Code><Condition>If-None-Match</Condition>"
    b"<Message>At least one of the pre-conditions you specified did not hold</Message></Error>"
)


class Proxy(ThreadingHTTPServer):
    """`losing`: how many answers to creations are lost after the server took them."""

    def __init__(self, upstream: S3Server, handler: type[Handler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.upstream = urlsplit(upstream.endpoint)
        self.objects = upstream.folder.parent
        self.creating = threading.Lock()
        self.losing = 0


P = TypeVar("P", bound=Proxy)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        if self.headers.get("If-None-Match") != "*":
            return self.pass_on()
        with self.server.creating:
            if (Path(self.server.objects) / unquote(urlsplit(self.path).path).lstrip("/")).exists():
                self.read_body()
                return self.answer(412, [("Content-Type", "application/xml")], REFUSED)
            return self.pass_on(loses=self.server.losing > 0)

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def pass_on(self, *, loses: bool = False) -> None:
        upstream = http.client.HTTPConnection(str(self.server.upstream.hostname), self.server.upstream.port)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name not in ("Expect", "Connection"):
                upstream.putheader(name, value)
        with suppress(BrokenPipeError):  # it answers before it has the body
            upstream.endheaders(self.read_body())
        found = upstream.getresponse()
        content = found.read()
        upstream.close()
        if loses:
            self.server.losing -= 1
            return self.answer(500, [], b"<Error><Code>InternalError</Code></Error>")
        return self.answer(found.status, found.getheaders(), content)

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name not in ("Transfer-Encoding", "Connection", "Content-Length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: RUF100


@contextmanager
def serving(proxy: P, server: S3Server) -> Iterator[tuple[S3Server, P]]:
    """`server` behind the proxy, until the block ends."""
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield replace(server, endpoint=f"http://127.0.0.1:{proxy.server_port}"), proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join(10)


def honour_conditions(server: S3Server) -> AbstractContextManager[tuple[S3Server, Proxy]]:
    """`server` behind the proxy, until the block ends."""
    return serving(Proxy(server), server)
