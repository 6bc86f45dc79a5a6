"""How long do eight variants of one base take end to end, by bare scripts, and by an earlier tree?

    .venv/bin/python benchmarks/chains.py                                  # after `make demo`
    git worktree add /tmp/earlier ba5c9d8                                  # before measuring had a budget
    .venv/bin/python benchmarks/chains.py --before /tmp/earlier
    .venv/bin/python benchmarks/chains.py --only scripts --minutes 9       # piece by piece

Eight LoRA variants of about 8,000 tokens each on the demo's base, from an empty store to a release: prepared,
trained, judged on 40 questions of two benchmarks, the test split and the demo's held-out texts, exported.
`here`: one `ft-dagster run --all`, two variants side by side on two cores. `before`: by the earlier tree one
`ft-dagster run` for each, on all cores, with this environment's libraries. `scripts`: what a person writes
who has no such tool: for each variant TRL's SFTTrainer at its defaults on as many tokens as are trained on
here (`peers/train_trl.py`, in an environment of its own), and lm-eval's own command on the adapter that it
left, with the same two benchmarks and 40 questions; the base is asked once. A script answers no test split,
reads no held-out text, keeps no record and gates nothing. Seconds until a command ends; a table. On two quiet
cores about 6 minutes here, 2 to 3 for each run of that tree, and 1.5 for each variant by scripts.

A call goes on where the one before it ended, run by run, unless code, model or data are others; --minutes
ends it early (exit code 75). What a run of a tree made that was itself ended on the way would be reused and
not timed: it starts over.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import tables
from benchmarks.peers import environments
from benchmarks.peers.job import job_of, write_rows
from benchmarks.project import DEMO, HERE, make_project
from ft_dagster.provenance.digest import hash_folder, sha256_file, sha256_json

MODEL, DATA = DEMO / "models" / "smollm2-135m", DEMO / "data" / "zaragoza" / "building-faq.jsonl"
FT_DAGSTER, LM_EVAL = (Path(sys.executable).with_name(name) for name in ("ft-dagster", "lm_eval"))
TASKS, QUESTIONS = ("arc_easy_local.yaml", "sciq_local.yaml"), "40"
PAUSED = 75  # the exit code of a call that another is to go on from
VALIDATION, TEST, SHARE = 0.16, 0.12, 0.08  # of the rows, and general text of all tokens
TRAINED = (1 - VALIDATION - TEST) / (1 - SHARE)  # tokens trained on here, of those that are declared
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
  splits: {{validation: {validation}, test: {test}}} # of some hundred rows, eight or more in each
  general: {{corpus: general, share: {share}}}
method: {{name: lora, rank: 16, dropout: 0.0}}
training: {{num_train_epochs: 1, learning_rate: 2.0e-4, max_length: 512, evaluations: 2, seed: {seed}}}
evaluation: {{general: [{tasks}], limit: {questions}}}
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
    tasks = ", ".join(f"{DEMO}/tasks/{name}" for name in TASKS)
    for seed in range(given.variants):
        file = write_rows(model, data, given.tokens, seed, folder / f".rows-{seed}.json")
        rows = json.loads(file.read_text())
        said = [{name: row[name] for name in ("instruction", "output")} for row in rows["train"]]
        files[f"rows-{seed}.jsonl"] = "".join(json.dumps(row) + "\n" for row in said)
        declared = DECLARATION.format(
            seed=seed, model=model, tasks=tasks, questions=QUESTIONS, slots=slots,
            validation=VALIDATION, test=TEST, share=SHARE,
        )  # fmt: skip
        files[f"tenants/bench/v{seed}.yaml"] = declared
    make_project(folder, files, fresh=False)
    (folder / "policy.yaml").write_text(POLICY, "utf-8")


class Command(NamedTuple):
    """A program of a run, with what its environment has besides."""

    asked: Sequence[str | Path]
    folder: Path
    environment: Mapping[str, str]


Runs = Mapping[str, Sequence[Command]]


def of_tree(tree: Path, project: Path, *asked: str) -> Command:
    """`ft-dagster run` by the code of that tree."""
    given = {"PYTHONPATH": str(tree), "FT_DAGSTER_PROJECT": str(project)}
    return Command([FT_DAGSTER, "run", *asked], project, given)


def by_scripts(project: Path, given: argparse.Namespace) -> Runs:
    """The base's benchmarks, and each variant's training and benchmarks. Raises CannotBeMade."""
    model, python = given.model.resolve(), environments.python_of("trl")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(project / "cache")}
    runs: dict[str, Sequence[Command]] = {"base": [benchmarked(model, None, project / "base", offline)]}
    for seed in range(given.variants):
        tokens = round(TRAINED * given.tokens)
        rows = write_rows(model, given.data.resolve(), tokens, seed, project / f"rows-{seed}.json")
        job = job_of(model, rows, project / f"v{seed}", seed, packing=False)
        (project / f"v{seed}.json").write_text(json.dumps(job))
        script = [python, HERE / "peers" / "train_trl.py", project / f"v{seed}.json"]
        runs[f"v{seed}"] = [
            Command(script, project, {**offline, "PYTHONPATH": "", "TOKENIZERS_PARALLELISM": "false"}),
            benchmarked(model, Path(job["adapter"]), project / f"v{seed}", offline),
        ]
    return runs


def benchmarked(model: Path, adapter: Path | None, out: Path, given: Mapping[str, str]) -> Command:
    """lm-eval's own command. Paths of its tasks count from their folder."""
    told = f"pretrained={model},dtype=bfloat16" + (f",peft={adapter}" if adapter else "")
    asked = ["--model", "hf", "--model_args", told, "--tasks", ",".join(TASKS), "--limit", QUESTIONS]
    asked += ["--device", "cpu", "--batch_size", "16", "--output_path", str(out / "scores")]
    return Command([LM_EVAL, *asked], DEMO / "tasks", given)


def timed(commands: Sequence[Command]) -> float:
    """Seconds of these, one after another. Raises SystemExit."""
    began = time.monotonic()
    for command in commands:
        given = {**os.environ, **command.environment}
        given.pop("DAGSTER_HOME", None)
        done = subprocess.run(
            command.asked, env=given, cwd=command.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr)[-4000:]
            raise SystemExit(f"{' '.join(map(str, command.asked))} failed:\n{said}")
    return time.monotonic() - began


def measured(project: Path, runs: Runs, until: float, *, reuses: bool) -> list[float] | None:
    """Seconds of each run, those that an earlier call kept among them; None where the minutes were over.
    Raises SystemExit where one that `reuses` what stands was ended on the way.
    """
    seconds = []
    for name, commands in runs.items():
        kept, begun = project / f"{name}.seconds", project / f"{name}.begun"
        if not kept.exists():
            if reuses and begun.exists():
                raise SystemExit(f"{name} was ended on the way, and what it made stands: remove {project}")
            if time.monotonic() > until:
                return None
            begun.touch()
            took = timed(commands)
            kept.write_text(f"{took:.1f} {os.getloadavg()[0]:.1f}")
            print(f"{project.name}, {name}: {took:.1f} s", flush=True)
        seconds.append(float(kept.read_text().split()[0]))
    return seconds


def folder_of(name: str, given: argparse.Namespace) -> Path:
    """One for each thing that is timed: of other code, model or data it is another."""
    tree = given.before.resolve() if name == "before" else HERE.parent
    code = {
        str(file.path): file.sha256 for file in hash_folder(tree / "ft_dagster") if file.path[-3:] == ".py"
    }
    peers = {str(file.path): file.sha256 for file in hash_folder(HERE / "peers") if file.path[-3:] != "pyc"}
    asked = [peers if name == "scripts" else code, str(given.model.resolve()), sha256_file(given.data)]
    size = f"{given.variants}x{given.tokens}"
    return given.folder.resolve() / f"{name}-{size}-{sha256_json([*asked, DECLARATION])[:8]}"


def runs_of(name: str, project: Path, given: argparse.Namespace) -> Runs:
    """What is timed of one of the three, in its folder. Raises CannotBeMade."""
    if name == "scripts":
        return by_scripts(project, given)
    if name == "here":
        write(project, given, slots=1)
        return {"all": [of_tree(HERE.parent, project, "--all")]}
    tree = given.before.resolve()
    write(project, given, slots=os.cpu_count() or 1)
    return {f"v{seed}": [of_tree(tree, project, f"bench.v{seed}")] for seed in range(given.variants)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="an earlier tree of this project")
    parser.add_argument("--only", choices=("here", "scripts", "before"), help="one of the three")
    parser.add_argument("--variants", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8000, help="of a variant")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=DATA, help="rows of instruction and output, JSON lines")
    parser.add_argument("--folder", type=Path, default=HERE / ".work" / "chains")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call made")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    if given.fresh:
        shutil.rmtree(given.folder, ignore_errors=True)
    rows = []
    for name in ("here", "scripts", *(["before"] if given.before else [])):
        if given.only not in (None, name):
            continue
        project = folder_of(name, given)
        project.mkdir(parents=True, exist_ok=True)
        try:
            runs = runs_of(name, project, given)
            seconds = measured(project, runs, until, reuses=name != "scripts")
        except environments.CannotBeMade as error:
            print(error)
            continue
        if seconds is None:
            print(f"{given.minutes:g} minutes are over: the same call goes on from here")
            return PAUSED
        rows.append((name, [f"{given.variants}", f"{sum(seconds):.0f}", f"{max(seconds):.0f}"]))
    libraries = tables.versions("ft-dagster", "torch", "transformers", "peft", "trl", "lm-eval")
    print(f"\n{tables.machine()}, {tables.today()}. {libraries}\n")
    print(tables.markdown(["by", "variants", "seconds", "the longest run"], [[n, *r] for n, r in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
