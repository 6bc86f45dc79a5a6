"""How long do eight variants of one base take end to end, and how long eight runs by an earlier tree?

    git worktree add /tmp/earlier ba5c9d8                                  # before measuring had a budget
    .venv/bin/python benchmarks/chains.py --before /tmp/earlier            # after `make demo`
    .venv/bin/python benchmarks/chains.py --before /tmp/earlier --only before --minutes 9   # piece by piece

Eight LoRA variants of about 8,000 tokens each on the demo's base, from an empty store to a release: prepared,
trained, judged on 40 questions of two benchmarks, the test split and the demo's held-out texts, exported.
Here: one `ft-dagster run --all`, two variants side by side on two cores. By the earlier tree: one
`ft-dagster run` for each, on all cores, with this environment's libraries. Seconds until a command ends; a
table. On two quiet cores about 8 minutes here, and 2 to 3 for each run of that tree.

A call goes on where the one before it ended, run by run; --minutes ends it early (exit code 75). What a run
made that was itself ended on the way would be reused and not timed: its tree starts over.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import tables
from benchmarks.peers.job import write_rows
from benchmarks.project import DEMO, HERE, make_project

MODEL, DATA = DEMO / "models" / "smollm2-135m", DEMO / "data" / "zaragoza" / "building-faq.jsonl"
FT_DAGSTER = Path(sys.executable).with_name("ft-dagster")
PAUSED = 75  # the exit code of a call that another is to go on from
CORPUS = """\
description: general text of the demo
sources:
  - {{path: {demo}/data/general/boolq.jsonl, licence: CC-BY-SA-3.0}}
  - {{path: {demo}/data/general/squad.jsonl, licence: CC-BY-SA-4.0}}
holdout: 0.06
"""
DECLARATION = """\
description: answers on building, drawn by seed {seed}
owners: [bench@example.com]
base_model: {model}
data:
  sources: [{{path: rows-{seed}.jsonl, licence: CC-BY-4.0}}]
  splits: {{validation: 0.16, test: 0.12}} # of some hundred rows, eight or more in each
  general: {{corpus: general, share: 0.08}}
method: {{name: lora, rank: 16, dropout: 0.0}}
training: {{num_train_epochs: 1, learning_rate: 2.0e-4, max_length: 512, evaluations: 2, seed: {seed}}}
evaluation: {{general: [{demo}/tasks/arc_easy_local.yaml, {demo}/tasks/sciq_local.yaml], limit: 40}}
gates: {{general_margin: 1.0, general_loss_margin: 1.0, degeneration_margin: 1.0, undecided: measured}}
resources: {{cpu_slots: {slots}}}
"""
POLICY = """\
gates: {general_margin: 1.0, general_loss_margin: 1.0, degeneration_margin: 1.0, undecided: measured}
evaluation: {questions: 40}
"""


def write(folder: Path, given: argparse.Namespace, slots: int) -> None:
    """The project, of variants that take so many CPU slots each."""
    model, data = given.model.resolve(), given.data.resolve()
    files = {"corpora/general.yaml": CORPUS.format(demo=DEMO)}
    for seed in range(given.variants):
        file = write_rows(model, data, given.tokens, seed, folder / f".rows-{seed}.json")
        rows = json.loads(file.read_text())
        said = [{name: row[name] for name in ("instruction", "output")} for row in rows["train"]]
        files[f"rows-{seed}.jsonl"] = "".join(json.dumps(row) + "\n" for row in said)
        declared = DECLARATION.format(seed=seed, model=model, demo=DEMO, slots=slots)
        files[f"tenants/bench/v{seed}.yaml"] = declared
    make_project(folder, files, fresh=False)
    (folder / "policy.yaml").write_text(POLICY, "utf-8")


def timed(tree: Path, project: Path, *asked: str) -> float:
    """Seconds of `ft-dagster run` by the code of that tree. Raises SystemExit."""
    given = {**os.environ, "PYTHONPATH": str(tree), "FT_DAGSTER_PROJECT": str(project)}
    given.pop("DAGSTER_HOME", None)
    began = time.monotonic()
    done = subprocess.run(
        [FT_DAGSTER, "run", *asked], env=given, cwd=project, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(
            f"{tree}: ft-dagster run {' '.join(asked)} failed:\n{(done.stdout + done.stderr)[-4000:]}"
        )
    return time.monotonic() - began


def measured(tree: Path, project: Path, runs: dict[str, tuple[str, ...]], until: float) -> list[float] | None:
    """Seconds of each run, those that an earlier call kept among them; None where the minutes were over.
    Raises SystemExit where a run was ended on the way.
    """
    seconds = []
    for name, asked in runs.items():
        kept, begun = project / f"{name}.seconds", project / f"{name}.begun"
        if not kept.exists():
            if begun.exists():
                raise SystemExit(f"{name} was ended on the way, and what it made stands: remove {project}")
            if time.monotonic() > until:
                return None
            begun.touch()
            took = timed(tree, project, *asked)
            kept.write_text(f"{took:.1f} {os.getloadavg()[0]:.1f}")
            print(f"{tree}, {' '.join(asked)}: {took:.1f} s", flush=True)
        seconds.append(float(kept.read_text().split()[0]))
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="an earlier tree of this project")
    parser.add_argument("--only", choices=("here", "before"), help="one of the two")
    parser.add_argument("--variants", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8000, help="of a variant")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=DATA, help="rows of instruction and output, JSON lines")
    parser.add_argument("--folder", type=Path, default=HERE / ".work" / "chains")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call made")
    given = parser.parse_args()
    until, folder = time.monotonic() + 60 * given.minutes, given.folder.resolve()
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    asked: dict[str, tuple[Path, int, Mapping[str, tuple[str, ...]]]] = {
        "here": (HERE.parent, 1, {"all": ("--all",)})
    }
    if given.before is not None:
        runs = {f"v{seed}": (f"bench.v{seed}",) for seed in range(given.variants)}
        asked["before"] = (given.before.resolve(), os.cpu_count() or 1, runs)
    rows = []
    for name, (tree, slots, runs) in asked.items():
        if given.only not in (None, name):
            continue
        project = folder / f"{name}-{given.variants}x{given.tokens}"
        write(project, given, slots)
        seconds = measured(tree, project, runs, until)
        if seconds is None:
            print(f"{given.minutes:g} minutes are over: the same call goes on from here")
            return PAUSED
        rows.append((name, [f"{given.variants}", f"{sum(seconds):.0f}", f"{max(seconds):.0f}"]))
    print(f"\n{tables.machine()}, {tables.today()}\n")
    print(tables.markdown(["tree", "variants", "seconds", "the longest run"], [[n, *r] for n, r in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
