"""Keeps a witness' checkpoints behind an HTTP endpoint, which anybody can write in forty lines:

    GET <address>/newest              200 and the highest number in decimal, 0 where there is none
    GET <address>/12                  200 and checkpoint 12 as it was put; 404 where there is none
    PUT <address>/12                  with `If-None-Match: *`: 201 for who is first, 412 where it stands

It keeps what it took, and takes no number twice. A token in the keys folder, `witness.<host>.token`, is sent
as `Authorization: Bearer`, and over https alone but to this host.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import read_private

SCHEMES = ("http://", "https://")
SECONDS = 8
MOST_BYTES = 64 * 2**20  # of one checkpoint
LOCAL = ("localhost", "127.0.0.1", "::1")
CREATED, THERE = (200, 201, 204), 412
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_NUMBER = re.compile(r"[^/]+/0*([0-9]+)\.json")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the token elsewhere."""

    def redirect_request(self, *asked: Any, **named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class HttpPlace:
    """Reads and adds checkpoints by their numbers. `keys`: the folder in which the token may lie. Raises
    UserError for an address with a password or a query in it, and for a token that would go in the clear.
    """

    def __init__(self, url: str, keys: Path) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            fix = "Write it as https://host/path; a token lies in the keys folder as `witness.<host>.token`"
            raise UserError("more than the address of a witness", field="witnesses", fix=fix)
        if not parts.hostname:
            raise UserError(
                "no host is named", field="witnesses", value=url, fix="Write it as https://host/path"
            )
        self._token = keys / f"witness.{parts.hostname}.token"
        if self._token.exists() and parts.scheme != "https" and parts.hostname not in LOCAL:
            fix = f"Name it by https://, or take {self._token} away"
            raise UserError("its token would be sent in the clear", field="witnesses", value=url, fix=fix)

    def uri(self, relative: str) -> str:
        return f"{self.url}/{_number(relative)}"

    def names(self, relative: str) -> list[str]:
        """Return the name of the newest file alone; none where there is none."""
        said = self._asked("GET", f"{self.url}/newest")[1]
        try:
            number = int(said.decode("ascii").strip())
        except (ValueError, UnicodeDecodeError):
            raise self._other(f"{self.url}/newest", "what is no number") from None
        return [f"{number:06d}.json"] if number > 0 else []

    def read(self, relative: str) -> bytes:
        """Raises FileNotFoundError."""
        status, content = self._asked("GET", self.uri(relative), (404,))
        if status == 404:
            raise FileNotFoundError(self.uri(relative))
        return content

    def create_exclusively(self, relative: str, content: bytes) -> bool:
        """Put a checkpoint; False where there is one by this number."""
        status, _ = self._asked("PUT", self.uri(relative), (*CREATED, THERE), content)
        return status != THERE

    def _asked(
        self, method: str, url: str, others: tuple[int, ...] = (), content: bytes | None = None
    ) -> tuple[int, bytes]:
        """Return status and content of an answer: 200, or one of `others`. Raises ConnectionError where
        nobody answers now, and UserError for any other answer.
        """
        headers = {} if content is None else {"If-None-Match": "*", "Content-Type": "application/json"}
        if self._token.exists():
            token = read_private(self._token, "witnesses", "token").decode("utf-8", "replace").strip()
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(url, content, headers, method=method)
        try:
            status, said = _answer(request)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ConnectionError(f"{self.url}: {reason or type(error).__name__}") from None
        if status in _PASSING:
            raise ConnectionError(f"{self.url}: it answers {status}")
        if status in (401, 403):
            fix = f"Put its token into {self._token}, chmod 600"
            raise UserError(f"the witness lets nobody in: it answers {status}", file=url, fix=fix)
        if status != 200 and status not in others:
            raise self._other(url, str(status))
        if len(said) > MOST_BYTES:
            raise self._other(url, f"more than {MOST_BYTES} bytes")
        return status, said

    def _other(self, url: str, what: str) -> UserError:
        fix = "See that it is a witness (docs/signing.md says what one answers)"
        return UserError(f"the witness answers {what}", file=url, fix=fix)


def _answer(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with _OPENER.open(request, timeout=SECONDS) as answer:
            return int(answer.status), bytes(answer.read(MOST_BYTES + 1))
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(MOST_BYTES + 1)


def _number(relative: str) -> int:
    found = _NUMBER.fullmatch(relative)
    if found is None:
        raise ValueError(f"no checkpoint: {relative!r}")
    return int(found[1])
