"""How long does a training take here, and how long by TRL and LLaMA-Factory? Tables and plots, side by side.

    make bench                                             # the next line, then chains.py and preparation.py
    .venv/bin/python benchmarks/bench.py                   # three rounds of every case, after `make demo`
    .venv/bin/python benchmarks/bench.py --only one --rounds 5
    .venv/bin/python benchmarks/bench.py --quick           # toy size: does everything still run?

Cases: `one` training; `variants`, 8 trainings of one base; `tokens` and `many`, how both scale. Contenders
are run in turn, round after round, and medians are shown. Every peer has an environment of its own
(`peers/environments.py`); what all are asked stands in `peers/job.py`. *Whole* is from the start of the
program until it is gone, *steps* of the optimizer's steps alone. *Beyond* is the largest resident size, less
what the imports took and less the weights. The loss is of the same held-out rows by one evaluator.

Here, a mixture is tokenized by an earlier stage; a peer tokenizes its rows itself (below a second). Here, a
training also measures its held-out loss, looks at its model, and keeps and verifies checkpoints; a peer, by
its defaults, does none of these. Warm, the server has imported and the base's first look is kept, as they are
from the second training of a host on; cold, there is neither.

Of `variants` all are judged, and the base once, by this project's evaluation program on the same questions
(`peers/judged.py`): *whole* has it. What was trained here is judged as it was trained, two at once and
forked; what a peer trained, one after another on all threads, each program started plainly. Nothing stands
before the first of them, neither a server nor a look.

A call says how long it takes about. It goes on where the one before it ended, training by training of a peer;
--minutes ends it early (exit code 75), --fresh forgets what is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import tables
from benchmarks.peers import environments, here
from benchmarks.peers import job as jobs
from benchmarks.peers import judged as judging
from ft_dagster.provenance.code import source_digest
from ft_dagster.provenance.digest import sha256_file

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "examples" / "demo"
MODEL, DATA = DEMO / "models" / "smollm2-135m", DEMO / "data" / "zaragoza" / "building-faq.jsonl"
OURS_WARM, OURS_COLD = "ft_dagster, warm", "ft_dagster, cold"
TRL_BEST = "TRL, packed, no checkpointing"
PAUSED = 75  # the exit code of a call that another is to go on from


@dataclass(frozen=True)
class Contender:
    """`peer`: its environment, None for this project. `gradient_checkpointing` None: its default."""

    peer: str | None
    warm: bool = False
    packing: bool = True
    gradient_checkpointing: bool | None = None
    at_once: int = 1


ONE = {
    OURS_WARM: Contender(None, warm=True),
    OURS_COLD: Contender(None),
    "TRL, defaults": Contender("trl", packing=False),
    "TRL, no checkpointing": Contender("trl", packing=False, gradient_checkpointing=False),
    TRL_BEST: Contender("trl", gradient_checkpointing=False),
    "LLaMA-Factory, defaults": Contender("llamafactory", packing=False),
    "LLaMA-Factory, packed, no checkpointing": Contender("llamafactory", gradient_checkpointing=False),
}
TOGETHER = "ft_dagster, warm, two at once"
MANY = {
    TOGETHER: Contender(None, warm=True, at_once=2),
    **{name: ONE[name] for name in ("TRL, defaults", TRL_BEST)},
}
SCALED = {OURS_WARM: ONE[OURS_WARM], TRL_BEST: ONE[TRL_BEST]}


@dataclass(frozen=True)
class Case:
    """`sizes`: (variants, tokens of each); `across`: which of the two grows, None where there is one size;
    `judged`: what was trained is judged too, and nothing stands before the first of them; `peers_most`:
    variants up to which a peer is run, which takes one after another.
    """

    title: str
    contenders: dict[str, Contender]
    sizes: tuple[tuple[int, int], ...]
    across: str | None = None
    judged: bool = False
    peers_most: int = 16

    def holds(self, how: Contender, variants: int) -> bool:
        return how.peer is None or variants <= self.peers_most


CASES = {
    "one": Case("One training", ONE, ((1, 8000),)),
    "variants": Case("Eight variants of one base, trained and judged", MANY, ((8, 8000),), judged=True),
    "tokens": Case("Tokens of a training", SCALED, tuple((1, n) for n in (2000, 8000, 32000)), "tokens"),
    "many": Case(
        "Trainings of 1,000 tokens", {TOGETHER: MANY[TOGETHER], TRL_BEST: ONE[TRL_BEST]},
        tuple((n, 1000) for n in (1, 4, 16, 64)), "variants",
    ),
}  # fmt: skip
QUICK = {
    "one": ((1, 600),),
    "variants": ((2, 300),),
    "tokens": ((1, 300), (1, 600)),
    "many": ((1, 300), (2, 300)),
}


# Seconds of a training, until it steps and of 1,000 tokens more, and of a judgement: what a call says before.
EXPECTED = {
    OURS_WARM: (5.0, 1.8), OURS_COLD: (11.0, 1.8), TOGETHER: (3.0, 1.4), "TRL, defaults": (6.0, 9.0),
    "TRL, no checkpointing": (6.0, 7.0), TRL_BEST: (6.0, 5.0), "LLaMA-Factory, defaults": (8.0, 6.5),
    "LLaMA-Factory, packed, no checkpointing": (8.0, 3.5),
}  # fmt: skip
JUDGED_SECONDS = 15.0


class Part(NamedTuple):
    """What is measured in one piece: the trainings of these seeds; of none, the base is judged."""

    key: str
    seeds: list[int]


@dataclass(frozen=True)
class Cell:
    """One contender at one size, in one round. A peer takes one training after another, each a part that is
    the same at every number of variants; `alone`: the key of its first.
    """

    name: str
    how: Contender
    variants: int
    tokens: int
    judged: bool
    key: str
    alone: str

    @property
    def parts(self) -> list[Part]:
        if self.how.peer is None:
            return [Part(self.key, list(range(self.variants)))]
        base = [Part(f"{self.alone}-base", [])] if self.judged else []
        return [*base, *(Part(f"{self.alone}-{seed}", [seed]) for seed in range(self.variants))]


@dataclass(frozen=True)
class Bench:
    """What a call was asked, and where it keeps what it found. Nothing is begun after `until` (monotonic)."""

    model: Path
    data: Path
    threads: int
    folder: Path
    until: float = math.inf

    def measured(self, cell: Cell) -> dict[str, Any]:
        """The figures of one cell, of which no part is measured again that an earlier call kept. Raises
        SystemExit, Pause.
        """
        parts = [self._kept(cell, part) or self._now(cell, part) for part in cell.parts]
        return parts[0] if cell.how.peer is None else together(parts)

    def expected_seconds(self, cells: Sequence[Cell]) -> float:
        """About how long the parts take that are not kept, by what other calls took on two cores."""
        left = {part.key: (cell, part) for cell in cells for part in cell.parts if not self._kept(cell, part)}
        seconds = 0.0
        for cell, part in left.values():
            start, each_thousand = EXPECTED[cell.name]
            training, count = start + each_thousand * cell.tokens / 1000, max(1, len(part.seeds))
            seconds += count * (training * bool(part.seeds) + JUDGED_SECONDS * cell.judged)
        return seconds

    def _asked(self, cell: Cell, part: Part) -> Any:
        asked = {
            "contender": str(cell.how),
            "size": [len(part.seeds), cell.tokens],
            "model": str(self.model),
            "data": sha256_file(self.data),
            "job": [jobs.LORA, jobs.LEARNING_RATE, jobs.MAX_LENGTH],
            # what a peer runs is its own
            "code": source_digest() if cell.judged or cell.how.peer is None else None,
            "threads": self.threads,
            "judged": cell.judged,
        }
        return json.loads(json.dumps(asked))

    def _kept(self, cell: Cell, part: Part) -> dict[str, Any] | None:
        file = self.folder / "cells" / f"{part.key}.json"
        kept = json.loads(file.read_text()) if file.exists() else {"asked": None}
        return dict(kept["found"]) if kept["asked"] == self._asked(cell, part) else None

    def _now(self, cell: Cell, part: Part) -> dict[str, Any]:
        if time.monotonic() > self.until:
            raise Pause
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            found = self._measure(cell.how, cell.tokens, part.seeds, Path(scratch), cell.judged)
        found["load"] = os.getloadavg()[0]
        file = self.folder / "cells" / f"{part.key}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"asked": self._asked(cell, part), "found": found}))
        return found

    def _measure(
        self, how: Contender, tokens: int, seeds: list[int], scratch: Path, judged: bool
    ) -> dict[str, Any]:
        """`seeds` empty: the base is judged and nothing trained. `loss`: the mean of what was trained."""
        given = [self._job(how, tokens, seed, scratch) for seed in seeds]
        if how.peer is None:
            found = self._here(how, given, scratch, judged)
        else:
            found = self._peer(how.peer, given, scratch) if given else {"whole_seconds": 0.0}
            if judged:  # the base where nothing is trained
                asked = [(job, Path(job["adapter"])) for job in given]
                asked = asked or [(self._job(how, tokens, 0, scratch), None)]
                chains = [[_judgement(*each, scratch / f"judge-{n}")] for n, each in enumerate(asked)]
                seconds, _ = here.finish(chains, 1, here.environment(False, self.threads, scratch))
                found["judging_seconds"] = seconds
                found["whole_seconds"] += seconds
        losses = [jobs.held_out_loss(self.model, Path(each["adapter"]), Path(each["rows"])) for each in given]
        return {**found, "loss": sum(losses) / len(losses)} if losses else found

    def _job(self, contender: Contender, tokens: int, seed: int, scratch: Path) -> dict[str, Any]:
        rows = jobs.write_rows(self.model, self.data, tokens, seed, scratch / f"rows-{seed}.json")
        checkpointing = contender.gradient_checkpointing
        return jobs.job_of(
            self.model,
            rows,
            scratch / f"output-{seed}",
            seed,
            packing=contender.packing,
            gradient_checkpointing=checkpointing,
        )

    def _here(
        self, how: Contender, given: list[dict[str, Any]], scratch: Path, judged: bool
    ) -> dict[str, Any]:
        """Each training, and after it its judgement, as two programs; the base's judgement first. Nothing
        stands before the first of them where they are judged, or not warm.
        """
        cold = judged or not how.warm
        kept = scratch if cold else self.folder
        environment = here.environment(how.warm, max(1, self.threads // how.at_once), kept / "warm")
        runs = [scratch / f"run-{n}" for n in range(len(given))]

        def trained(job: dict[str, Any], folder: Path) -> here.Program:
            asked = {**job, "first_looks": str(kept / "first_looks")}
            return here.Program(here.PROGRAM, lambda: here.run_folder(asked, folder))

        if not cold:  # the server imports, and the base is looked at, once for many trainings
            here.finish([[trained(given[0], scratch / "before")]], 1, environment)
        chains = [[trained(job, run)] for job, run in zip(given, runs, strict=True)]
        if judged:
            for number, (job, run, chain) in enumerate(zip(given, runs, chains, strict=True)):
                chain.append(_judgement(job, here.adapter(run), scratch / f"judge-{number}"))
            chains.insert(0, [_judgement(given[0], None, scratch / "judge-base")])
        whole, seconds = here.finish(chains, how.at_once, environment)
        found = [here.figures(run) for run in runs]
        for job, each in zip(given, found, strict=True):
            job["adapter"] = each["adapter"]
            files = [*self.model.glob("*.safetensors"), *Path(each["adapter"]).glob("*.safetensors")]
            each["weights_bytes"] = sum(file.stat().st_size for file in files)
        judging_seconds = seconds.get(judging.PROGRAM, 0.0) / how.at_once
        return {**self._figures(whole, found), **({"judging_seconds": judging_seconds} if judged else {})}

    def _peer(self, peer: str, given: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
        python, script = environments.python_of(peer), HERE / "peers" / f"train_{peer}.py"
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(scratch / "cache"), "PYTHONPATH": "",
        }  # fmt: skip
        found, began = [], time.monotonic()
        for number, each in enumerate(given):
            job = scratch / f"job-{number}.json"
            job.write_text(json.dumps(each))
            command = [str(python), str(script), str(job)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{script} failed:\n{done.stderr[-4000:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
        return self._figures(time.monotonic() - began, found)

    @staticmethod
    def _figures(whole: float, found: list[dict[str, Any]]) -> dict[str, Any]:
        """`beyond_bytes`: the largest of the trainings."""
        beyond = [each["peak_bytes"] - each["imported_bytes"] - each["weights_bytes"] for each in found]
        return {
            "whole_seconds": whole,
            "steps_seconds": sum(each["steps_seconds"] for each in found),
            "steps": sum(each["steps"] for each in found),
            "trained_tokens": sum(each["trained_tokens"] for each in found),
            "peak_bytes": max(each["peak_bytes"] for each in found),
            "beyond_bytes": max(beyond),
            "versions": found[0].get("versions"),
        }


def _judgement(job: dict[str, Any], adapter: Path | None, folder: Path) -> here.Program:
    return here.Program(judging.PROGRAM, lambda: judging.run_folder(job, adapter, folder))


class Pause(Exception):
    """The minutes of this call are over."""


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of trainings that were measured one by one, and of a base that was judged."""
    trained = [each for each in parts if "steps" in each]
    sums = ("whole_seconds", "judging_seconds", "steps_seconds", "steps", "trained_tokens")
    return {
        **{name: sum(each.get(name, 0) for each in parts) for name in sums},
        **{name: max(each[name] for each in trained) for name in ("peak_bytes", "beyond_bytes")},
        "loss": sum(each["loss"] for each in trained) / len(trained),
        "versions": trained[0]["versions"],
        "load": max(each["load"] for each in parts),
    }


Found = dict[tuple[str, tuple[int, int]], list[dict[str, Any]]]


def cells_of(name: str, case: Case, rounds: int) -> list[Cell]:
    """In the order in which they are measured: round after round."""

    def key(contender: str, variants: int, tokens: int, number: int) -> str:
        return f"{name}-{contender}-{variants}x{tokens}-{number}".replace(" ", "_").replace(",", "")

    return [
        Cell(
            contender, how, variants, tokens, case.judged, key(contender, variants, tokens, number),
            key(contender, 1, tokens, number),
        )
        for number in range(rounds)
        for variants, tokens in case.sizes
        for contender, how in case.contenders.items()
        if case.holds(how, variants)
    ]  # fmt: skip


def run_case(
    name: str, case: Case, bench: Bench, rounds: int, say: Callable[[str], None]
) -> tuple[Found, list[str]]:
    """The figures by contender and size, and why a contender is missing. Raises Pause."""
    found: Found = {}
    missing: dict[str, str] = {}
    cells = cells_of(name, case, rounds)
    left = bench.expected_seconds(cells)
    say(f"{name}: about {left / 60:.0f} minutes at this size on two quiet cores, less what is kept")
    for cell in cells:
        if cell.name in missing:
            continue
        try:
            figures = bench.measured(cell)
        except environments.CannotBeMade as error:
            missing[cell.name] = str(error)
            continue
        found.setdefault((cell.name, (cell.variants, cell.tokens)), []).append(figures)
        judging = f", judging {figures['judging_seconds']:.1f} s" if cell.judged else ""
        say(f"{cell.key}: {figures['whole_seconds']:.1f} s, steps {figures['steps_seconds']:.1f} s{judging}")
    left_out = [
        f"{contender}: up to {case.peers_most} variants, one after another."
        for contender, how in case.contenders.items()
        if not all(case.holds(how, variants) for variants, _ in case.sizes)
    ]
    return found, [*left_out, *(f"{contender}: {why}" for contender, why in missing.items())]


def table(found: Found) -> str:
    """A row for each contender and size; times are also shown as a multiple of the first contender's."""
    head = ["variants x tokens", "contender", "whole, s", "of the first's", "judging, s", "steps, s", "steps",
            "trained tokens", "beyond the weights, MB", "held-out loss"]  # fmt: skip
    rows, first = [], next(iter(found))[0]
    for (contender, size), rounds in found.items():
        mid, base = tables.medians(rounds), tables.medians(found[first, size])
        rows.append([
            f"{size[0]} x {size[1]:,}", contender, f"{mid['whole_seconds']:.1f}",
            f"{mid['whole_seconds'] / base['whole_seconds']:.2f}", f"{mid.get('judging_seconds', 0):.1f}",
            f"{mid['steps_seconds']:.1f}",
            f"{mid['steps']:.0f}", f"{mid['trained_tokens']:,.0f}", f"{mid['beyond_bytes'] / 1e6:,.0f}",
            f"{mid['loss']:.4f}",
        ])  # fmt: skip
    return tables.markdown(head, rows)


def write_results(folder: Path, name: str, case: Case, found: Found, missing: Sequence[str]) -> None:
    """<name>.json, <name>.md and <name>.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    loads = [each["load"] for rounds in found.values() for each in rounds]
    peers = {c: rounds[0]["versions"] for (c, _), rounds in found.items() if rounds[0]["versions"]}
    ours = tables.versions("ft-dagster", "torch", "transformers", "peft", "trl")
    about = [
        f"{tables.machine()} (after each run: {min(loads):.1f} to {max(loads):.1f}), {tables.today()}.",
        f"{len(next(iter(found.values())))} rounds, medians. Here: {ours}.",
        *(f"{c}: {', '.join(f'{n} {v}' for n, v in each.items())}." for c, each in peers.items()),
        *missing,
    ]
    (folder / f"{name}.md").write_text(f"# {case.title}\n\n" + "\n".join(about) + "\n\n" + table(found))
    cells = [
        {"contender": c, "variants": s[0], "tokens": s[1], "rounds": rounds}
        for (c, s), rounds in found.items()
    ]
    (folder / f"{name}.json").write_text(json.dumps({"about": about, "cells": cells}, indent=1) + "\n")
    mid = {key: tables.medians(rounds) for key, rounds in found.items()}
    if case.across is None:
        tables.bars(folder / f"{name}.svg", case.title,
                    {c: (m["steps_seconds"], m["whole_seconds"]) for (c, _), m in mid.items()})  # fmt: skip
    else:
        place = 0 if case.across == "variants" else 1
        points = {c: {s[place]: m["whole_seconds"] for (d, s), m in mid.items() if d == c} for c, _ in mid}
        tables.lines(folder / f"{name}.svg", case.title, case.across, points)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="these cases")
    parser.add_argument(
        "--contenders", nargs="+", help="these alone, by name; the first is what others are held to"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of all that runs at a time")
    parser.add_argument("--quick", action="store_true", help="toy size, one round")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="a folder with config.json, weights, tokenizer"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="rows of instruction and output, JSON lines")
    parser.add_argument(
        "--folder", type=Path, default=HERE / ".work" / "bench", help="what is kept of a call"
    )
    parser.add_argument(
        "--results", type=Path, help="default: benchmarks/results, at toy size beside --folder"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after so many")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call measured")
    return parser


def main() -> int:
    given = arguments().parse_args()
    if not (given.model / "config.json").exists():
        raise SystemExit(f"{given.model} is no model: run `make demo` first, or name one by --model")
    folder = given.folder.resolve() / ("quick" if given.quick else "full")
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    results = given.results or (folder / "results" if given.quick else HERE / "results")
    until = time.monotonic() + 60 * given.minutes
    bench = Bench(given.model.resolve(), given.data.resolve(), given.threads, folder, until)
    for name in given.only:
        case = CASES[name]
        wanted = {
            c: how for c, how in case.contenders.items() if given.contenders is None or c in given.contenders
        }
        if not wanted:
            raise SystemExit(f"--contenders: {name} has {', '.join(case.contenders)}")
        case = replace(case, contenders=wanted, sizes=QUICK[name] if given.quick else case.sizes)
        rounds = 1 if given.quick else given.rounds
        try:
            found, missing = run_case(name, case, bench, rounds, lambda line: print(line, flush=True))
        except Pause:
            print(f"{given.minutes:g} minutes are over: the same call goes on from here")
            return PAUSED
        write_results(results, name, case, found, missing)
        print((results / f"{name}.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
