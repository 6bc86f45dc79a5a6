"""`make compat`: the light core in an environment for each cell of Python and Dagster, at both ends of the
range.

A cell that passed today is not tried again, so that what was ended goes on; `--cell 3.11-oldest` tries that
one in any case. What came out stands in matrix.json, and docs/compat.md is made of it. It needs a package
index and, on the PATH, each Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("matrix.json")
PAGE = ROOT / "docs" / "compat.md"
KEPT = ROOT / "tests" / "compat" / "store_0_1"  # a store with releases, and a tiny base
DEMO = ROOT / "examples" / "demo"
MADE = (".ft_dagster", "data", "models", "packages")  # what `make demo` adds to it
ROW = {"prompt": "What is two and two?", "completion": "four"}
PASSED = "passes"
TRIED = {
    "loads": "`dagster definitions validate` of a new project",
    "check": "`ft-dagster check` of that project",
    "status": "`ft-dagster status` of the demo's declarations",
    "catalogue": "`ft-dagster catalogue` of a store that version 0.1 made",
}


@dataclass(frozen=True)
class Cell:
    """`end`: of the Dagsters that pyproject.toml allows, "oldest" or "newest"."""

    python: str
    end: str

    @property
    def name(self) -> str:
        return f"{self.python}-{self.end}"


@dataclass(frozen=True)
class Outcome:
    """`date`: of the try, UTC. `python`, `dagster`: the versions that were installed, empty where none was.
    `said`: of each of TRIED that was come to, PASSED or the last line that it said.
    """

    date: str
    python: str
    dagster: str
    said: dict[str, str]

    @property
    def passed(self) -> bool:
        return self.said == dict.fromkeys(TRIED, PASSED)


@cache
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def cells() -> list[Cell]:
    first, end = (int(minor) for minor in re.findall(r"3\.(\d+)", project()["requires-python"]))
    return [Cell(f"3.{minor}", which) for minor in range(first, end) for which in ("oldest", "newest")]


def oldest_dagster() -> list[str]:
    """What to install at the lower end: each package of Dagster's at the lowest version that is allowed."""
    return [
        re.sub(r">=([\d.]+).*", r"==\1", line)
        for line in project()["dependencies"]
        if line.startswith("dagster")
    ]


def interpreter(version: str) -> str | None:
    """The first of the PATH that runs; a shim of pyenv may be there and run nothing."""
    for folder in os.get_exec_path():
        program = Path(folder) / f"python{version}"
        if program.is_file() and ran([str(program), "-c", "import ensurepip"], Path.cwd())[0]:
            return str(program)
    return None


def ran(command: Sequence[str], folder: Path) -> tuple[bool, str]:
    """Whether it ended well, and what it said, without what this shell knows of other projects."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER", "FT_DAGSTER", "PYTHON"))}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).strip()


def tried(cell: Cell, folder: Path) -> Outcome:
    """`cell` in a new environment below `folder`."""
    today = datetime.now(UTC).date().isoformat()
    python = interpreter(cell.python)
    if python is None:
        return Outcome(today, "", "", {"loads": f"no python{cell.python} on the PATH runs"})
    programs = folder / "environment" / "bin"
    at = [] if cell.end == "newest" else oldest_dagster()
    for command in (
        [python, "-m", "venv", str(programs.parent)],
        [str(programs / "pip"), "install", "-q", "--disable-pip-version-check", str(ROOT), *at],
    ):
        passed, said = ran(command, folder)
        if not passed:
            return Outcome(today, "", "", {"loads": last_line(said)})
    versions = "import platform, dagster; print(platform.python_version(), dagster.__version__)"
    _, said = ran([str(programs / "python"), "-c", versions], folder)
    version, dagster = said.splitlines()[0].split()
    return Outcome(today, version, dagster, dict(answers(programs, folder)))


def answers(programs: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Of each of TRIED, PASSED or the last line that it said."""
    fine_tuning, fresh = str(programs / "ft-dagster"), folder / "fresh"
    demo = shutil.copytree(DEMO, folder / "demo", ignore=shutil.ignore_patterns(*MADE))
    rows, base = folder / "rows.jsonl", shutil.copytree(KEPT / "models" / "tiny", folder / "base")
    rows.write_text(
        "".join(json.dumps({**ROW, "prompt": f"{n}: {ROW['prompt']}"}) + "\n" for n in range(400)), "utf-8"
    )
    ran([fine_tuning, "init", str(fresh), "--base-model", str(base), "--data", str(rows)], folder)
    commands = {
        "loads": [str(programs / "dagster"), "definitions", "validate", "-m", "ft_dagster.definitions"],
        "check": [fine_tuning, "check"],
        "status": [fine_tuning, "--project", str(demo), "status"],
        "catalogue": [fine_tuning, "--project", str(shutil.copytree(KEPT, folder / "kept")), "catalogue"],
    }
    for name, command in commands.items():
        passed, said = ran(command, fresh)
        yield name, PASSED if passed else last_line(said)


def last_line(said: str) -> str:
    return said.splitlines()[-1].strip() if said else "said nothing"


def recorded() -> dict[str, Outcome]:
    """What came out at the last try of each cell."""
    kept = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    return {name: Outcome(**outcome) for name, outcome in kept.items()}


def page(outcomes: dict[str, Outcome]) -> str:
    """docs/compat.md."""
    heads = ["Python", "Dagster", *TRIED, "tried"]
    rows = [heads, ["---"] * len(heads)]
    for cell in cells():
        known = outcomes.get(cell.name, Outcome("not yet", "", "", {}))
        said = [known.said.get(name, "").replace("|", "\\|") for name in TRIED]
        dagster = f"{known.dagster} ({cell.end})" if known.dagster else cell.end
        rows.append([known.python or cell.python, dagster, *said, known.date])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    meanings = "\n".join(f"- {name}: {meaning}" for name, meaning in TRIED.items())
    return f"""# Which Python and which Dagster
The light core (`pip install ft-dagster`), at both ends of the Dagsters that `pyproject.toml` allows; other
libraries are the newest that it allows. Made by the last run of `make compat` (`tests/compat/matrix.py`).

{table}

{meanings}
"""


def main() -> None:
    names = [cell.name for cell in cells()]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", choices=names, help="this one, whenever it was tried last")
    wanted = parser.parse_args().cell
    outcomes, today = recorded(), datetime.now(UTC).date().isoformat()
    for cell in cells():
        done = cell.name in outcomes and outcomes[cell.name].date == today and outcomes[cell.name].passed
        if cell.name != wanted if wanted else done:
            continue
        with tempfile.TemporaryDirectory(prefix="ft_dagster-compat-") as folder:
            outcomes[cell.name] = tried(cell, Path(folder))
        kept = {name: asdict(outcomes[name]) for name in names if name in outcomes}
        RECORD.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        PAGE.write_text(page(outcomes), "utf-8")
        print(cell.name, outcomes[cell.name], flush=True)
    if not all(outcome.passed for outcome in outcomes.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
