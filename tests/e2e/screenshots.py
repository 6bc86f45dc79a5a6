"""The pictures of docs/ui.md, made anew from a project that has finished its runs.

python -m tests.e2e.screenshots [PROJECT]      `make screenshots`: from the demo's, after `make demo`
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.e2e.browser import browser
from tests.e2e.instance import BIN, free_port, running, wait_for_ui
from tests.e2e.project import command_environment

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "images" / "ui"
VARIANT, OTHER = "meditech.icd-coder", "zaragoza.building-faq"
LARGEST = 100_000  # bytes of a picture
GROUPS = ("data", "planning", "training", "evaluation", "release", "fleet")


class Shot(NamedTuple):
    """`address`: below the UI's, or the arguments of `ft-dagster report`; `until`: an expression that is true
    once what is to be seen is there. In pixels, `width` and `height`: of the window; `left` and `top`: of it,
    left out.
    """

    name: str
    address: str | tuple[str, ...]
    until: str
    width: int = 1280
    height: int = 1000
    left: int = 0
    top: int = 0


def graph() -> Shot:
    """All assets, in their groups."""
    opened = ",".join(f"global@global:{group}" for group in GROUPS)
    drawn = "document.querySelectorAll('foreignObject').length > 20"
    return Shot("graph", f"/asset-groups?expanded={opened}", drawn, 1920, 860, 540, 110)


def page(name: str) -> Shot:
    """Of an asset of the variant."""
    address = f"/assets/{name}?view=partitions&partition={VARIANT}"
    return Shot(name, address, "document.body.innerText.includes('Next: ')", 1500, left=240)


def report(name: str, *arguments: str) -> Shot:
    return Shot(name, arguments, "document.readyState === 'complete'", 1100)


def fleet_page() -> Shot:
    """What `ft-dagster ui` opens on."""
    return Shot("fleet_page", "/fleet", "!!document.querySelector('h1')")


SHOTS = (
    fleet_page(),
    graph(),
    page("task_dataset"),
    page("training_plan"),
    page("fine_tuned_model"),
    page("evaluation"),
    page("release"),
    report("report", VARIANT),
    report("side_by_side", VARIANT, "--against", OTHER),
    report("fleet", "--fleet"),
)


def take(project: Path) -> None:
    environment, port = command_environment(project), free_port()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as work,
        running([BIN / "ft-dagster", "ui", "--port", str(port)], environment),
        browser(Path(work) / "profile") as tab,
    ):
        root = wait_for_ui(port)
        for shot in SHOTS:
            tab.look(shot.width, dark=False, height=shot.height)
            tab.open(_address(shot, root, environment, Path(work)), shot.until)
            tab.settle()
            picture = tab.picture(shot.left, shot.top)
            assert len(picture) < LARGEST, f"{shot.name} has {len(picture)} bytes"
            (FOLDER / f"{shot.name}.webp").write_bytes(picture)


def _address(shot: Shot, root: str, environment: dict[str, str], work: Path) -> str:
    """Of the UI, or of a report that is written for it."""
    if isinstance(shot.address, str):
        return root + shot.address
    file = work / f"{shot.name}.html"
    command: list[str | Path] = [BIN / "ft-dagster", "report", *shot.address, "--to", file]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return file.as_uri()


if __name__ == "__main__":
    take(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "examples" / "demo").resolve())
