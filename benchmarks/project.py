"""What the benchmarks share: a project in a folder of its own, and the command line over it."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "examples" / "demo"
SETTINGS = f"store: .ft_dagster/store\nsources: {{allow: [., {json.dumps(str(DEMO))}]}}\n"
# Nothing is released.
POLICY = """\
gates: {general_margin: 1.0, general_loss_margin: 1.0, task_margin: 1.0, loss_tail: 0.5, regression: optional}
evaluation: {questions: 1}
"""


def arguments(doc: str, name: str) -> argparse.ArgumentParser:
    """--folder and --fresh, which every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE / ".work" / name, help="where the project goes")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call trained")
    return parser


def make_project(folder: Path, files: Mapping[str, str], *, fresh: bool) -> None:
    """Write the files, path -> content, with settings and a policy beside them. The demo may be read."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    for name, content in {**files, "ft_dagster.yaml": SETTINGS, "policy.yaml": POLICY}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")


def ft_dagster(folder: Path, *asked: str) -> int:
    """Run `ft-dagster` of this environment on the project; its exit code."""
    program = [str(Path(sys.executable).with_name("ft-dagster")), "--project", str(folder)]
    return subprocess.run([*program, *asked], check=False).returncode
