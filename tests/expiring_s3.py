"""A proxy before a real S3 server whose temporary credentials run out when a test says so.

The server behind it takes any session token: which are let in is the proxy's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from tests.conditional_s3 import Handler, Proxy, serving
from tests.s3_server import KEY, SECRET, S3Server

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


class ExpiringProxy(Proxy):
    """`expired`: tokens that are let in no more. `let_in`: those that were. `status`: of a refusal, AWS' own,
    or 403, as others have it.
    """

    def __init__(self, upstream: S3Server) -> None:
        super().__init__(upstream, ExpiringHandler)
        self.expired: set[str] = set()
        self.let_in: set[str] = set()
        self.status = 400


class ExpiringHandler(Handler):
    server: ExpiringProxy

    def do_PUT(self) -> None:
        token = self.headers.get("X-Amz-Security-Token", "none")
        if token in self.server.expired:
            self.read_body()
            return self.answer(self.server.status, [("Content-Type", "application/xml")], EXPIRED)
        self.server.let_in.add(token)
        return self.pass_on()

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT  # type: ignore[assignment]


def expiring(server: S3Server) -> AbstractContextManager[tuple[S3Server, ExpiringProxy]]:
    """`server` behind the proxy, until the block ends."""
    return serving(ExpiringProxy(server), server)


def write_profile(file: Path, token: str) -> None:
    """Temporary credentials of the profile `acme`, in a file as AWS' tools write them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ("[acme]", f"aws_access_key_id = {KEY}", f"aws_secret_access_key = {SECRET}")
    file.write_text("\n".join((*lines, f"aws_session_token = {token}\n")))
