"""A hub of data sets on this machine, as far as the datasets library asks it for files at the top."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROPOSED = "fedcba9876543210fedcba9876543210fedcba98"  # of refs/pr/7, which anybody may open


@contextmanager
def small_hub(sets: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """The address (for HF_ENDPOINT) of a hub that has `sets` (repository -> name -> content), whatever the
    revision: all is COMMIT, the only one of the default branch, but refs/pr/7, which is PROPOSED.
    """

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            named = json.loads(asked)["paths"] if asked.startswith("{") else _form(asked)
            files = self._asked()[1]
            self._send([_entry(name, files[name]) for name in named if name in files])

        def log_message(self, *said: object) -> None:
            pass

        def _answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            repo, files = self._asked()
            if f"/{repo}/resolve/" in path:
                self._send(files.get(path.partition("/resolve/")[2].partition("/")[2]))
            elif f"/{repo}/commits/" in path:
                said = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "title": "", "message": ""}
                self._send([{"id": COMMIT, **said}])
            elif f"/{repo}/revision/refs/pr/7" in path:
                self._send({"id": repo, "sha": PROPOSED, "siblings": []})
            elif f"/{repo}/tree/" in path:
                self._send([_entry(name, content) for name, content in files.items()])
            else:
                self._send({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})

        def _asked(self) -> tuple[str, Mapping[str, bytes]]:
            path = f"{unquote(self.path.partition('?')[0])}/"
            return next((repo, sets[repo]) for repo in sets if f"/{repo}/" in path)

        def _send(self, content: object) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _form(asked: str) -> list[str]:
    return [unquote(part.partition("=")[2]) for part in asked.split("&") if part.startswith("paths=")]


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
