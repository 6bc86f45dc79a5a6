"""A headless Chromium, driven over its debugging protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.e2e.instance import free_port

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 60.0  # seconds


class BrowserTab:
    """One tab. `events`: what the browser said beside its answers."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.asked = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> Any:
        """The result of a command of the protocol."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": parameters}))
        while (said := json.loads(self.socket.recv(PATIENCE))).get("id") != self.asked:
            self.events.append(said)
        assert "error" not in said, said
        return said["result"]

    def look(self, width: int, *, dark: bool, height: int = 1400) -> None:
        """Become so large, and prefer light or dark."""
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, as JSON has it."""
        return self.do("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def click(self, element: str) -> None:
        """Press the mouse amid what an expression finds, once it is enabled, at rest and on top."""
        middle = (
            "(e => { if (!e || e.disabled) return null; e.scrollIntoView({block: 'center'}); "
            "const box = e.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2; "
            f"return e.contains(document.elementFromPoint(x, y)) ? [x, y] : null }})({element})"
        )
        end, known, place = time.monotonic() + PATIENCE, None, None
        while place is None or place != known:
            assert time.monotonic() < end, self.evaluate("document.body.innerText")
            known, place = place, self.evaluate(middle)
            time.sleep(0.25)
        x, y = place
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key by its name, `Escape`."""
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, left: int = 0, top: int = 0) -> bytes:
        """Of what is in view, as WebP, without so many pixels at its edges."""
        width, height = self.evaluate("[innerWidth, innerHeight]")
        clip = {"x": left, "y": top, "width": width - left, "height": height - top, "scale": 1}
        shot = self.do("Page.captureScreenshot", format="webp", quality=80, clip=clip)
        return base64.b64decode(shot["data"])

    def open(self, address: str, until: str) -> None:
        """Go there and wait until the expression is true."""
        self.events.clear()
        self.do("Page.navigate", url=address)
        self.wait(until)

    def settle(self, seconds: float = 2.0) -> None:
        """Until the page has not changed for so long."""
        end, known, since = time.monotonic() + PATIENCE, None, time.monotonic()
        while time.monotonic() - since < seconds:
            assert time.monotonic() < end, "the page goes on changing"
            shown = self.evaluate("[document.body.innerHTML.length, document.images.length]")
            if shown != known:
                known, since = shown, time.monotonic()
            time.sleep(0.25)

    def wait(self, until: str, patience: float = PATIENCE) -> None:
        """Until the expression is true; `patience`: seconds."""
        end = time.monotonic() + patience
        while not self.evaluate(until):
            assert time.monotonic() < end, self.evaluate("document.body.innerText")
            time.sleep(0.25)


@contextmanager
def browser(profile: Path) -> Iterator[BrowserTab]:
    """A browser with an empty profile, ended with the block."""
    port = free_port()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command = [str(PROGRAM), *options, f"--remote-debugging-port={port}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_socket_of(port), max_size=None) as socket:
            yield BrowserTab(socket)
    finally:
        process.terminate()
        process.wait()


def _socket_of(port: int) -> str:
    """The address of the first tab, once the browser listens."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            for tab in json.loads(answer.read()):
                if tab["type"] == "page":
                    return str(tab["webSocketDebuggerUrl"])
        time.sleep(0.2)
    raise TimeoutError("the browser does not listen")
