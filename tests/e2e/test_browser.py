"""The real UI in a browser: a run by clicking, then each page at two widths, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.browser import PROGRAM, BrowserTab, browser
from tests.e2e.instance import BIN, ask, free_port, running, wait_for_ui, wait_until
from tests.e2e.project import command_environment, write_project

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this host"),
]
OF_A_VARIANT = [
    *("declaration", "base_model", "task_dataset", "training_mixture", "training_plan"),
    *("fine_tuned_model", "base_evaluation", "evaluation", "model_export", "release_evaluation", "release"),
]
OF_ALL = ["general_corpus", "fleet"]
CELLS = "[...document.querySelectorAll('td')]"
WIDER = f"""{CELLS}.filter(cell => {{
  const right = box => box.getBoundingClientRect().right;
  for (let box = cell.parentElement; box; box = box.parentElement)
    if (getComputedStyle(box).overflowX !== 'visible' && right(cell) > right(box) + 1) return true;
  return right(cell) > innerWidth
}}).map(cell => cell.innerText.slice(0, 40))"""
SUMMARIZED = "document.body.innerText.includes('Next: ')"
LINKS = "[...document.querySelectorAll('td a[href]')].map(a => [a.innerText.trim(), a.href])"
NOWHERE = (
    "/runs/00000000-0000-0000-0000-000000000000",
    "/assets/nothing?view=partitions&partition=acme.places",
    "/assets/evaluation?view=partitions&partition=acme.nobody",
)
DRAWN = "[...document.images].some(i => i.src.startsWith('data:image/svg') && i.naturalWidth > 100)"


class House(NamedTuple):
    """A project whose variant was materialized by clicking, its UI's address, a browser's tab, and what the
    page of the run said at its end.
    """

    folder: Path
    root: str
    tab: BrowserTab
    ended: str


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[House]:
    folder = write_project(tmp_path_factory.mktemp("browser") / "project", tiny_model_folder)
    port = free_port()
    with (
        running([BIN / "ft-dagster", "ui", "--port", str(port)], command_environment(folder)),
        browser(tmp_path_factory.mktemp("profile")) as tab,
    ):
        root = wait_for_ui(port)
        wait_until(lambda: declared(port, "acme.places"))
        yield House(folder, root, tab, materialize(tab, root, "acme.places"))


def declared(port: int, key: str) -> bool:
    """Whether the UI offers the partition, which the sensor adds."""
    nodes = ask(port, "{ assetNodes { partitionKeys } }")["assetNodes"]
    return any(key in node["partitionKeys"] for node in nodes)


def materialize(tab: BrowserTab, root: str, key: str) -> str:
    """Click through a run of the whole chain for one partition; what its page says once it has ended."""
    tab.look(1280, dark=False)
    start = labelled("button", "Materialize all")
    tab.open(f"{root}/locations/ft_dagster/jobs/variant_chain", f"!!{start}")
    tab.click(start)
    tab.click(labelled("[class*=placeholder]", "Select a partition"))
    tab.click(labelled("[role=menuitem]", key))
    tab.press("Escape")
    tab.click(labelled("button", "Launch 1 run"))
    tab.click(labelled("a, button", "View\\n"))
    tab.wait("/^(Success|Failure|Canceled)$/m.test(document.body.innerText)", patience=300)
    return str(tab.evaluate("document.body.innerText"))


def page_of(root: str, name: str) -> str:
    """The address of an asset's page, of the variant where it has partitions."""
    return f"{root}/assets/{name}?view={'overview' if name in OF_ALL else 'partitions&partition=acme.places'}"


def leads_to(address: str) -> str:
    """Whether what an address names is there, as an expression: Dagster shows another partition for one
    that is not, and a page for an asset or a run that is not.
    """
    if "/runs/" in address:
        return "/Success[^]*partition: acme.places/.test(document.body.innerText)"
    return f"location.href.startsWith('{address}') && {SUMMARIZED}"


def labelled(selector: str, label: str) -> str:
    """The element of a selector whose text begins so, as an expression."""
    found = f"[...document.querySelectorAll('{selector}')]"
    return f"{found}.find(e => `${{e.innerText.trim()}}\\n`.startsWith('{label}'))"


def test_a_partition_is_materialized_by_clicking_and_its_run_is_seen_to_end_well(house: House) -> None:
    for said in ("Success", "partition: acme.places", "Succeeded (12)", "Errored (0)"):
        assert said in house.ended
    assert (house.folder / ".ft_dagster/store/tenants/acme/places/releases/000001.json").is_file()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_each_page_shows_summary_picture_and_table_without_a_click_and_nothing_cut(
    house: House, width: int, dark: bool
) -> None:
    tab, root = house.tab, house.root
    tab.look(width, dark=dark)
    tab.open(root, "document.readyState === 'complete'")
    tab.evaluate(f"localStorage.setItem('theme', JSON.stringify('{'Dark' if dark else 'Light'}'))")
    for name in (*OF_A_VARIANT, *OF_ALL):
        tab.open(page_of(root, name), SUMMARIZED)
        labels = tab.evaluate(f"{CELLS}.map(c => c.innerText.trim())")
        place = labels.index("summary") + 1
        said = " ".join(labels[place : place + (2 if name in OF_ALL else 1)])  # there behind a time
        assert "Next: " in said, (name, said)
        assert tab.evaluate("document.querySelectorAll('td table').length") > 0, name
        tab.wait(DRAWN)
        assert tab.evaluate(WIDER) == [], name


def test_each_link_of_a_page_leads_to_what_it_names(house: House) -> None:
    tab, root = house.tab, house.root
    tab.look(1280, dark=False)
    links: dict[str, str] = {}
    for name in (*OF_A_VARIANT, *OF_ALL):
        tab.open(page_of(root, name), SUMMARIZED)
        links |= {address: label for label, address in tab.evaluate(LINKS)}
    assert {*OF_A_VARIANT, "general_corpus"} - {"release"} <= {*links.values()}
    assert any(address.startswith(f"{root}/runs/") for address in links)
    for address, label in links.items():
        assert label.removeprefix("run ") in address
        tab.open(address, leads_to(address))
    for nowhere in NOWHERE:
        tab.open(root + nowhere, "document.readyState === 'complete'")
        tab.settle(4)
        assert not tab.evaluate(leads_to(root + nowhere)), nowhere
