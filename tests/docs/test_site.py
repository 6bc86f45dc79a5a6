"""`make docs`: the pages as a site whose links all lead somewhere; a page that is wrong ends it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.e2e.browser import PROGRAM, BrowserTab, browser
from tests.long import mostly_long

ROOT = Path(__file__).resolve().parents[2]
README = """# A project

See [the page](docs/page.md).

## Documentation
| | |
|---|---|
| learn | [page](docs/page.md) |
"""
WIDER = """[...document.querySelectorAll('article table, article pre, article img, .table-wrapper')].filter(
    each => each.scrollWidth > each.clientWidth + 1 || each.getBoundingClientRect().right > innerWidth
).map(each => (each.innerText || each.src).slice(0, 80))"""  # the beginning of what is cut
pytestmark = pytest.mark.slow


def built(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """By the words of the Makefile, into another folder."""
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ndocs:")[2].splitlines()[1]
    words = shlex.split(recipe.replace("$(BIN)/sphinx-build", ""))
    assert words[-1] == "site"
    command = [sys.executable, "-m", "sphinx", *words[:-1], str(out)]
    return subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)


class Page(HTMLParser):
    """What a page links to, and the names in it that may be linked to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.add(given.get("id") or "")
        self.links += [value for name in ("href", "src") if (value := given.get(name))]


def dead(site: Path) -> list[str]:
    """Each link of a page to a file that is not there, or to a name that is not in it."""
    pages = {file: Page(file) for file in site.rglob("*.html")}
    found = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            missing = parts.fragment and target in pages and parts.fragment not in pages[target].names
            if not target.exists() or missing:
                found.append(f"{file.relative_to(site)}: {link}")
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the project's own site."""
    folder = tmp_path_factory.mktemp("built") / "site"
    done = built(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long
def test_it_builds_and_every_link_of_every_page_leads_somewhere(site: Path) -> None:
    pages = {file.relative_to(site).as_posix() for file in site.rglob("*.html")}
    assert {"README.html", "docs/tutorial.html", "docs/reference/python.html"} <= pages
    assert dead(site) == []


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[BrowserTab]:
    with browser(tmp_path / "profile") as tab:
        tab.look(1280, dark=False)
        yield tab


@pytest.mark.long
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this host")
def test_a_search_finds_its_pages_from_disk_without_an_error(site: Path, tab: BrowserTab) -> None:
    for words, page in (("rollback", "docs/releases.html"), ("SFTConfig+packing", "docs/moving.html")):
        found = f"!!document.querySelector('#search-results a[href*=\"{page}\"]')"
        tab.open(f"{(site / 'search.html').as_uri()}?q={words}", found)
        tab.settle()
        methods = ("Log.entryAdded", "Runtime.exceptionThrown")
        assert [event for event in tab.events if event["method"] in methods] == []


@pytest.mark.long
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this host")
def test_no_table_command_or_picture_is_wider_than_its_page_at_1280_pixels(
    site: Path, tab: BrowserTab
) -> None:
    wide = {}
    for file in site.rglob("*.html"):
        tab.open(file.as_uri(), "document.readyState === 'complete'")
        if cut := tab.evaluate(WIDER):
            wide[file.relative_to(site).as_posix()] = cut
    assert wide == {}


@pytest.fixture
def small(tmp_path: Path) -> Callable[[str], str]:
    """What is said of a project whose one page is this text; "" where it builds."""

    def said(page: str) -> str:
        (tmp_path / "docs").mkdir()
        for name in ("conf.py", "site.css"):
            shutil.copy(ROOT / "docs" / name, tmp_path / "docs")
        (tmp_path / "README.md").write_text(README)
        (tmp_path / "docs" / "page.md").write_text(page)
        done = built(tmp_path, tmp_path / "site")
        return done.stderr if done.returncode else ""

    return said


def test_a_page_that_is_right_builds(small: Callable[[str], str]) -> None:
    assert small("# Page\n\n[back](../README.md#documentation)\n\n```yaml\na: [1, 2]\n```\n") == ""


@pytest.mark.parametrize(
    ("page", "reason"),
    mostly_long(
        [
            ("[gone](gone.md)", "gone.md"),
            ("[gone](../README.md#nothing)", "nothing"),
            ("![gone](images/gone.png)", "gone.png"),
            ("```yamml\na: 1\n```", "yamml"),
            ("```json\n{a: ?}\n```", "json"),
        ],
        every=3,
    ),
    ids=["link", "anchor", "image", "language", "block"],
)
def test_what_is_wrong_in_a_page_ends_it(small: Callable[[str], str], page: str, reason: str) -> None:
    said = small(f"# Page\n\n{page}\n")
    assert "docs/page.md" in said
    assert reason in said


@pytest.mark.long
def test_it_ends_again_where_nothing_was_mended(small: Callable[[str], str], tmp_path: Path) -> None:
    assert "gone.md" in small("# Page\n\n[gone](gone.md)\n")
    assert "gone.md" in built(tmp_path, tmp_path / "site").stderr


@pytest.mark.parametrize("alone", mostly_long(["benchmarks/README.md", "benchmarks/notes/alone.md"], every=2))
def test_a_page_that_no_table_of_contents_lists_ends_it(
    small: Callable[[str], str], tmp_path: Path, alone: str
) -> None:
    (tmp_path / "benchmarks" / "notes").mkdir(parents=True)
    (tmp_path / alone).write_text("# Alone\n")
    said = small("# Page\n")
    assert alone in said
    assert "toctree" in said
