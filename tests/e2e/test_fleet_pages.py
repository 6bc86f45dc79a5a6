"""`ft-dagster ui` in a browser: it prints only its address, the fleet page; two clicks lead on from there."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.browser import PROGRAM, BrowserTab, browser
from tests.e2e.instance import BIN, free_port
from tests.e2e.project import command_environment
from tests.finished import copied

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this host"),
]
WIDER = "document.documentElement.scrollWidth > innerWidth"
TYPED = """(() => {{
  const typed = document.querySelector("textarea");
  typed.value = {};
  typed.dispatchEvent(new Event("input"));
  return document.querySelector("[data-command]").textContent;
}})()"""


class Opened(NamedTuple):
    """Is a UI, by the one line that it printed, and a browser's tab."""

    address: str
    tab: BrowserTab
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, finished_project: Path) -> Iterator[Opened]:
    folder = copied(finished_project, tmp_path_factory.mktemp("fleet") / "project")
    command = [str(BIN / "ft-dagster"), "ui", "--port", str(free_port())]
    process = subprocess.Popen(
        command, env=command_environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, cwd=folder,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = process.stdout.readline()
        with browser(tmp_path_factory.mktemp("profile")) as tab:
            yield Opened(address.strip(), tab, process)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read() == "closing; runs that were submitted go on\n"
        assert process.wait(60) == 0


def test_it_prints_only_its_address(opened: Opened) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/fleet", opened.address)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_no_page_is_wider_than_the_window(opened: Opened, width: int, dark: bool) -> None:
    opened.tab.look(width, dark=dark)
    for path in ("", "/acme.places", "/audit"):
        opened.tab.open(opened.address + path, "!!document.querySelector('main')")
        assert not opened.tab.evaluate(WIDER), path


def test_two_clicks_lead_from_the_fleet_to_dagsters_page_of_the_verdict(opened: Opened) -> None:
    tab = opened.tab
    tab.look(1280, dark=False)
    tab.open(opened.address, "document.querySelector('h1').innerText === 'Fleet'")
    tab.click("[...document.querySelectorAll('main a')].find(a => a.innerText === 'acme.places')")
    tab.wait("document.querySelector('h1').innerText === 'acme.places'")
    tab.click("[...document.querySelectorAll('main a')].find(a => a.innerText === 'evaluation')")
    tab.wait("location.href.endsWith('/assets/evaluation?view=partitions&partition=acme.places')")


@pytest.mark.parametrize(
    "text",
    ["it's $(here)\n`two`", "it's $(here)\n`two`\t \x03rm -rf .\n\x1b[201~\x150 !x \x9b7 \\0 \u00e9"],
    ids=["plain", "keys of a terminal"],
)
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_what_an_auditor_types_becomes_one_quoted_word_and_is_not_sent(
    opened: Opened, text: str, shell: str
) -> None:
    tab = opened.tab
    tab.open(f"{opened.address}/audit", "!!document.querySelector('textarea')")
    tab.events.clear()
    line = tab.evaluate(TYPED.format(json.dumps(text)))
    tab.settle(1)
    assert line.startswith("ft-dagster audit record --save -- ")
    assert all(sign == "\n" or sign.isprintable() for sign in line)  # nothing that a terminal takes for a key
    said = subprocess.run(
        [shell, "-c", line.replace("ft-dagster", "printf '%s|'", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"audit|record|--save|--|{text}|"
    sent = [event for event in tab.events if event.get("method") == "Network.requestWillBeSent"]
    assert not [event for event in sent if "here" in str(event)]
