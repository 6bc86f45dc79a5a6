"""The front door: links are signposts, the wheel has one top-level name, the code location stays light,
rooms and files stay small.
"""

import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tests.longest import LONGEST

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("room", ["assets", "resources"])
def test_the_links_point_at_the_rooms_people_come_for(room: str) -> None:
    link = ROOT / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / "ft_dagster" / room


@pytest.mark.long
def test_the_wheel_holds_one_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    assert "ft_dagster/planning/hardware/gpus.yaml" in files
    pages = {"style.css", "live.css", "live.js", "sorting.js", "live.html.jinja", "report.html.jinja"}
    assert {f"ft_dagster/report/pages/{name}" for name in pages} <= {*files}
    assert "ft_dagster/planning/dryrun/architectures/Llama-3-70B.json" in files
    names = {name.split("/")[0] for name in files}
    assert {name for name in names if not name.endswith(".dist-info")} == {"ft_dagster"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="it asks git which rooms there are")
def test_the_sdist_names_each_room_of_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    rooms = {line.split("/")[0] for line in listed.splitlines() if "/" in line}
    builds = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]
    assert {room for room in rooms if not room.startswith(".")} <= {*builds["sdist"]["only-include"]}


@pytest.mark.slow
def test_loading_the_code_location_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'peft', 'trl', 'datasets', 'lm_eval', 'deepspeed'}"
    program = f"import sys, ft_dagster.definitions; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_a_room_of_the_package_holds_25_modules_at_most_and_a_file_500_lines() -> None:
    files = [*(ROOT / "ft_dagster").rglob("*.py")]
    rooms = Counter(str(file.parent.relative_to(ROOT)) for file in files if file.name != "__init__.py")
    long = {str(file.relative_to(ROOT)): len(file.read_text("utf-8").splitlines()) for file in files}
    assert {room: count for room, count in rooms.items() if count > 25} == {}
    assert {file: lines for file, lines in long.items() if lines > 500} == {}


def test_each_room_that_is_tested_first_is_there() -> None:
    assert [name for name in LONGEST if not list((ROOT / "tests").glob(f"{name}*"))] == []
