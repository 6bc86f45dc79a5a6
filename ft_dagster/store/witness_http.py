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
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from ft_dagster.errors import UserError
from ft_dagster.provenance.signing import read_private

SCHEMES = ("http://", "https://")
SECONDS = 8  # without a byte
TOTAL_SECONDS = 60  # of a request, however slowly the bytes come
MOST_BYTES = 64 * 2**20  # of one checkpoint
LOCAL = ("localhost", "127.0.0.1", "::1")
CREATED, THERE = (200, 201, 204), 412
_PASSING = (408, 425, 429, 500, 502, 503, 504)
Answer = tuple[int, bytes]  # status and content
_DIGITS = re.compile(rb"[0-9]{1,18}")
_TOKEN = re.compile(rb"[!-~]+")
_NUMBER = re.compile(r"[^/]+/0*([0-9]+)\.json")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would take the token elsewhere."""

    def redirect_request(self, *asked: Any, **named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
_DIRECT = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


class HttpPlace:
    """Reads and adds checkpoints by their numbers. `keys`: the folder in which the token may lie. Raises
    UserError for an address without a host, and for a token that would go in the clear.
    """

    def __init__(self, url: str, keys: Path) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if not parts.hostname:
            raise UserError(
                "no host is named", field="witnesses", value=url, fix="Write it as https://host/path"
            )
        self._token = keys / f"witness.{parts.hostname}.token"
        self._opener = _DIRECT if parts.hostname in LOCAL else _OPENER  # no proxy reads a token in the clear
        if self._token.exists() and parts.scheme != "https" and parts.hostname not in LOCAL:
            fix = f"Name it by https://, or take {self._token} away"
            raise UserError("its token would be sent in the clear", field="witnesses", value=url, fix=fix)

    def uri(self, relative: str) -> str:
        return f"{self.url}/{_number(relative)}"

    def names(self, relative: str) -> list[str]:
        """Return the name of the newest file alone; none where there is none."""
        said = self._asked("GET", f"{self.url}/newest")[1].strip()
        if not _DIGITS.fullmatch(said):
            raise self._other(f"{self.url}/newest", "what is no number of at most 18 digits")
        return [f"{int(said):06d}.json"] if int(said) else []

    def read(self, relative: str) -> bytes:
        """Raises FileNotFoundError."""
        status, content = self._asked("GET", self.uri(relative), (404,))
        if status == 404:
            raise FileNotFoundError(self.uri(relative))
        return content

    def create_exclusively(self, relative: str, content: bytes) -> bool:
        """Put a checkpoint, and read it back; False where there is one by this number."""
        status, _ = self._asked("PUT", self.uri(relative), (*CREATED, THERE), content)
        if status == THERE:
            return False
        if self._asked("GET", self.uri(relative), (404,)) != (200, content):
            raise self._other(self.uri(relative), "another checkpoint than it took")
        return True

    def _asked(
        self, method: str, url: str, others: tuple[int, ...] = (), content: bytes | None = None
    ) -> Answer:
        """Return status and content of an answer: 200, or one of `others`. Raises ConnectionError where
        nobody answers now, and UserError for any other answer.
        """
        headers = {} if content is None else {"If-None-Match": "*", "Content-Type": "application/json"}
        if self._token.exists():
            token = read_private(self._token, "witnesses", "token").strip()
            if not _TOKEN.fullmatch(token):
                fix = "Write the token alone into it, one line of ASCII without blanks"
                raise UserError("not a token", file=self._token, field="witnesses", fix=fix)
            headers["Authorization"] = f"Bearer {token.decode()}"
        request = urllib.request.Request(url, content, headers, method=method)
        try:
            status, said = _within(TOTAL_SECONDS, partial(_answer, self._opener, request))
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


def _within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """Return what a question is answered. Raises TimeoutError where nobody has answered it by then."""
    answer = Future[Answer]()

    def wait() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=wait, daemon=True).start()
    return answer.result(seconds)


def _answer(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> Answer:
    try:
        with opener.open(request, timeout=SECONDS) as answer:
            return int(answer.status), bytes(answer.read(MOST_BYTES + 1))
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(MOST_BYTES + 1)


def _number(relative: str) -> int:
    found = _NUMBER.fullmatch(relative)
    if found is None:
        raise ValueError(f"no checkpoint: {relative!r}")
    return int(found[1])
