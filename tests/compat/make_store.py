"""Make a store by the command line alone, by `python -m tests.compat.make_store --to FOLDER`.

Given is the project in store_0_1 without its README and what is made (store/, answers.json). The chain of
the commit on which this runs makes the rest again, in a neutral folder, so that no path of a home enters the
store. A store once committed is never made again: that of another commit goes into another folder.

    acme.places     an adapter: versions 1 and 2, back to 1, then version 3 in production
    acme.colours    an adapter on version 3 of acme.places, which is folded into its base
    globex.places   a merged model, whose version waited for its approver
    globex.strict   its gate failed, one rule being undecided: no export, no release
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

GIVEN = Path(__file__).with_name("store_0_1")
WORKSHOP = Path("/tmp/ft-store")
PROGRAM = "from ft_dagster.cli import main; main()"
TOKENS = 5  # of an answer: so many are decided by far more than rounding
MADE = ("store", "answers.json", "README.md")
PROMPTS = {
    "acme.places": "Where is the permit of the harbour?",
    "acme.colours": "Which colour has house 7 of Zyrtexal?",
    "globex.places": "Where is the whale of the bridge?",
}


def command(project: Path, *words: str, fails: bool = False) -> Any:
    """What `ft-dagster WORDS --json` prints for a project. `fails`: whether it is to end with an error."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "FT_DAGSTER"))}
    own = {"LOGNAME": "ml", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    own["FT_DAGSTER_HOST__LOCK_FOLDER"] = str(project.with_name("leases"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--project", str(project), *words, "--json"],
        env={**outer, **own}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if (done.returncode != 0) != fails:
        raise SystemExit(f"ft-dagster {' '.join(words)} ended with {done.returncode}: {done.stdout}")
    return json.loads(done.stdout)


def declare(project: Path, variant: str, **training: Any) -> None:
    """Change fields of `training` in a declaration."""
    file = project / "tenants" / f"{variant.replace('.', '/')}.yaml"
    content = yaml.safe_load(file.read_text("utf-8"))
    content["training"].update(training)
    file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def make(project: Path) -> None:
    """The story of the store. The child is made last: a new release of its parent would train it again."""
    declare(project, "acme.places", num_train_epochs=4)
    command(project, "run", "acme.places")
    declare(project, "acme.places", num_train_epochs=5)
    command(project, "run", "acme.places")
    command(project, "rollback", "acme.places", "--reason", "answers too long", "--by", "ann")
    declare(project, "acme.places", num_train_epochs=6)
    command(project, "run", "acme.places")
    command(project, "run", "acme.colours")
    command(project, "run", "globex.places")
    command(project, "release", "globex.places", "--by", "gus", "--reason", "read its answers")
    command(project, "run", "globex.strict", fails=True)


def answers(project: Path) -> dict[str, str]:
    """Variant -> what its model answers to its prompt."""
    said = [
        command(project, "try", variant, "--prompt", text, "--max-new-tokens", str(TOKENS))
        for variant, text in PROMPTS.items()
    ]
    return {one["variant"]: one["answers"][0]["tuned"] for (one,) in said}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--to", type=Path, required=True, help="A folder that does not exist yet")
    target = options.parse_args().to
    if target.exists() or WORKSHOP.exists():
        raise SystemExit(f"{target} or {WORKSHOP} exists: nothing is overwritten")
    project = WORKSHOP / "project"
    shutil.copytree(GIVEN, project, ignore=lambda _, names: [name for name in names if name in MADE])
    make(project)
    (project / "answers.json").write_text(json.dumps(answers(project), indent=1) + "\n", "utf-8")
    shutil.copytree(project, target, ignore=shutil.ignore_patterns(".ft_dagster"))
    shutil.rmtree(WORKSHOP)


if __name__ == "__main__":
    main()
