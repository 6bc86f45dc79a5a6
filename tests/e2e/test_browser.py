"""What a browser shows of a variant: each page at two widths, light and dark, and the report from disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.browser import PROGRAM, BrowserTab, browser
from tests.e2e.instance import BIN, free_port, running, wait_for_ui
from tests.e2e.project import command_environment, write_project

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this host"),
]
PICTURED = ["task_dataset", "training_mixture", "training_plan", "fine_tuned_model", "evaluation"]
PLAIN = ["declaration", "base_model", "base_evaluation", "model_export", "release"]
CELLS = "[...document.querySelectorAll('td')]"
WIDER = (
    f"{CELLS}.filter(c => c.getBoundingClientRect().right > innerWidth).map(c => c.innerText.slice(0, 40))"
)
SUMMARIZED = "document.body.innerText.includes('Next: ')"
DRAWN = "[...document.images].some(i => i.src.startsWith('data:image/svg') && i.naturalWidth > 100)"


class House(NamedTuple):
    """A project whose variant was run, its UI's port, and a browser's tab."""

    folder: Path
    port: int
    tab: BrowserTab


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[House]:
    folder = write_project(tmp_path_factory.mktemp("browser") / "project", tiny_model_folder)
    environment, command = command_environment(folder), BIN / "ft-dagster"
    subprocess.run([command, "run", "acme.places"], env=environment, check=True, capture_output=True)
    port = free_port()
    with (
        running([command, "ui", "--port", str(port)], environment),
        browser(tmp_path_factory.mktemp("profile")) as tab,
    ):
        yield House(folder, port, tab)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_each_page_shows_summary_picture_and_table_without_a_click_and_nothing_cut(
    house: House, width: int, dark: bool
) -> None:
    tab, root = house.tab, wait_for_ui(house.port)
    tab.look(width, dark=dark)
    tab.open(root, "document.readyState === 'complete'")
    tab.evaluate(f"localStorage.setItem('theme', JSON.stringify('{'Dark' if dark else 'Light'}'))")
    for name in (*PICTURED, *PLAIN):
        tab.open(f"{root}/assets/{name}?view=partitions&partition=acme.places", SUMMARIZED)
        labels = tab.evaluate(f"{CELLS}.map(c => c.innerText.trim())")
        said = labels[labels.index("summary") + 1]
        assert "Next: " in said, (name, said)
        assert tab.evaluate("document.querySelectorAll('td table').length") > 0, name
        if name in PICTURED:
            tab.wait(DRAWN)
        assert tab.evaluate(WIDER) == [], name


def test_the_report_opens_from_disk_without_network_or_error(house: House, tmp_path: Path) -> None:
    file, environment = tmp_path / "report.html", command_environment(house.folder)
    subprocess.run(
        [BIN / "ft-dagster", "report", "acme.places", "--to", file], env=environment, check=True, timeout=120
    )
    colours = set()
    for dark in (False, True):
        house.tab.look(1280, dark=dark)
        house.tab.open(file.as_uri(), "document.querySelectorAll('svg').length >= 4")
        colours.add(house.tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        sent = [e["params"]["request"]["url"] for e in house.tab.events if e.get("method") == REQUEST]
        assert [url for url in sent if not url.startswith(("file:", "data:"))] == []
        assert [e for e in house.tab.events if e.get("method") in ERRORS] == []
        assert house.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(colours) == 2
    pages = house.tab.do("Page.printToPDF")["data"]
    assert len(pages) > 20_000


REQUEST = "Network.requestWillBeSent"
ERRORS = {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
