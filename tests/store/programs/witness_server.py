"""Serves a witness of checkpoints by HTTP from a folder: FOLDER [TOKEN]. Prints its port.

It is all that docs/signing.md asks of one, by the standard library alone.
"""

from __future__ import annotations

import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER, TOKEN = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None


class Witness(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self._may():
            taken = [int(file.name) for file in FOLDER.iterdir() if file.name.isdigit()]
            if self.path == "/newest":
                self._answer(200, str(max(taken, default=0)).encode())
            elif self.path[1:].isdigit() and int(self.path[1:]) in taken:
                self._answer(200, (FOLDER / self.path[1:]).read_bytes())
            else:
                self._answer(404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._may():
            return
        if not re.fullmatch(r"/[1-9][0-9]*", self.path) or self.headers["If-None-Match"] != "*":
            self._answer(400)
            return
        draft = FOLDER / f".{os.getpid()}-{id(self)}"
        draft.write_bytes(content)
        try:
            os.link(draft, FOLDER / self.path[1:])
            self._answer(201)
        except FileExistsError:
            self._answer(412)
        finally:
            draft.unlink()

    def _may(self) -> bool:
        if TOKEN is None or self.headers["Authorization"] == f"Bearer {TOKEN}":
            return True
        self._answer(401)
        return False

    def _answer(self, status: int, content: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *said: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Witness)
    print(server.server_address[1], flush=True)
    server.serve_forever()
