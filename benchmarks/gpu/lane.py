#!/usr/bin/env python3
"""Test and measure ft_dagster on this machine: unpack the loads that lie here, run the stages, print a table.

    python3 benchmarks/gpu/lane.py                     # all stages, as far as the time goes; again: goes on
    python3 benchmarks/gpu/lane.py --stage machine --stage right

Needs Python with torch, transformers, PEFT and accelerate; the rest is in the pack (pack.py). One JSON file a
stage, table.md and lane.log are written to --out as soon as there is something to write. Without a GPU the
same stages run on the CPU at toy sizes. Exit: 0 all that ran is right, 1 something failed, 2 it cannot run,
130 interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Stage -> (what it tells, its limit in seconds), in order of worth.
STAGES = {
    "machine": ("what the machine is", 90),
    "right": ("CUDA against CPU, packing, kill and resume, cancel", 300),
    "foretold": ("the dry run's bytes against the allocator's", 540),
    "fast": ("tokens a second, share of the card's own rate, TRL beside it", 540),
    "judged": ("scores and answers against CPU", 240),
    "dagster": ("one variant from declaration to release", 300),
    "bounded": ("packed examples of hybrids, told to kernels: not yet run", 120),
}
TEXT = {"done": "done", "partial": "not all", "skipped": "skipped", "failed": "failed", "ended": "ended"}
SITE = "site-packages"  # a folder of another name, and dill takes libraries in it for a user's own modules
LOG_KEPT = 2_000_000  # bytes of lane.log
PROBE = """
import importlib.metadata, json, platform, sys
import torch
gpu = torch.cuda.is_available()
free, total = torch.cuda.mem_get_info() if gpu else (None, None)
names = ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes", "numpy", "triton")
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "device": "cuda" if gpu else "cpu", "card": torch.cuda.get_device_name(0) if gpu else None,
    "count": torch.cuda.device_count() if gpu else 0, "free_bytes": free, "total_bytes": total,
    "capability": list(torch.cuda.get_device_capability(0)) if gpu else None,
    "cuda": torch.version.cuda, "python": platform.python_version(),
    "libraries": {name: version(name) for name in names},
}))
"""


class CannotRun(Exception):
    """What is wrong with the pack or the machine, and the way out."""


def main() -> int:
    given = arguments()
    started = time.monotonic()
    try:
        about = read_pack(given.loads, given.work)
        check_python(about)
        try:
            unpack(given.loads, given.work, about)
        except OSError as error:
            raise CannotRun(f"{error}; make room, or name another folder with --work") from None
        machine = probe(given)
        check_machine(about, machine)
        lane = Lane(given, about, machine, started)
        lane.run(given.stage or list(STAGES))
    except CannotRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted, nothing is left running; call again, it goes on from here", file=sys.stderr)
        return 130
    print(lane.table(), flush=True)
    return 1 if lane.failed() else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", action="append", choices=STAGES, help="may be repeated; none: all")
    parser.add_argument(
        "--loads", type=Path, default=HERE / ".pack", help="the folder with load-1, load-2, …"
    )
    parser.add_argument("--out", type=Path, default=HERE / ".out", help="results; what is done there is kept")
    parser.add_argument(
        "--work", type=Path, default=HERE / ".work", help="scratch: unpacked loads, models, runs"
    )
    parser.add_argument("--budget", type=float, default=520, help="seconds for this call")
    parser.add_argument("--limit", type=float, help="seconds of one stage, instead of its own")
    parser.add_argument("--cpu", action="store_true", help="toy sizes on the CPU, also where there is a GPU")
    parser.add_argument("--real", action="store_true", help="on a CPU, the 135M model as well")
    parser.add_argument("--here", action="store_true", help="run the source beside this file, not the pack's")
    parser.add_argument("--fresh", action="store_true", help="forget the results that lie in --out")
    given = parser.parse_args()
    for name in ("loads", "out", "work"):
        setattr(given, name, getattr(given, name).resolve())
    given.out.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    return given


def say(line: str) -> None:
    print(line, flush=True)


# -- the pack


def read_pack(loads: Path, work: Path) -> dict:
    """What load.json says of the whole pack. Raises CannotRun where no load and no unpacked pack lie here."""
    for file in (*sorted(loads.glob("load-*/load.json")), work / "load.json"):
        try:
            return json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            continue
    raise CannotRun(
        f"{loads}: no load lies here; make the pack with `make gpu-pack`, or name its folder with --loads"
    )


def check_python(about: dict) -> None:
    """Said first: compiled wheels of another Python or processor load nowhere here."""
    python, machine = "{}.{}".format(*sys.version_info), platform.machine()
    if (python, machine) != (about["python"], about["machine"]):
        raise CannotRun(
            f"the pack was made for Python {about['python']} on {about['machine']}, this is Python {python} "
            f"on {machine}; pack again: python3 benchmarks/gpu/pack.py --python {python}, or call that Python"
        )


def damage(folder: Path, load: dict) -> str | None:
    """The first file of a load that is missing or differs, in words."""
    for entry in load["files"]:
        file = folder / entry["name"]
        if not file.is_file():
            return f"{entry['name']} is missing"
        if hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            return f"{entry['name']} is damaged"
    return None


def unpack(loads: Path, work: Path, about: dict) -> None:
    """Put what the loads hold in place; each load once. Raises CannotRun without a whole first load."""
    mark = work / "load.json"
    if mark.exists() and other_pack(work, about):
        say("another pack was unpacked here: it goes")
        for name in (SITE, "source", "unpacked", "tiny", "rows", "model"):
            shutil.rmtree(work / name, ignore_errors=True)
    mark.write_text(json.dumps(about))
    (work / "unpacked").mkdir(exist_ok=True)
    for load in about["loads"]:
        folder, done = loads / load["name"], work / "unpacked" / load["name"]
        if done.exists():
            continue
        if not folder.is_dir():
            say(f"{load['name']} is not here: without {parts_of(load)}")
            continue
        if problem := other_pack(folder, about) or damage(folder, load):
            say(f"{load['name']} is set aside: {problem}; copy it again. Without {parts_of(load)}")
            continue
        began = time.monotonic()
        for entry in load["files"]:
            put(folder / entry["name"], entry, work)
        done.touch()
        say(f"{load['name']} unpacked in {time.monotonic() - began:.1f} s")
    if not (work / "unpacked" / about["loads"][0]["name"]).exists():
        raise CannotRun(
            f"{loads}: the first load holds the source, and nothing runs without it; copy it again"
        )


def parts_of(load: dict) -> str:
    return ", ".join(sorted({entry["part"] for entry in load["files"]}))


def other_pack(folder: Path, about: dict) -> str | None:
    try:
        same = json.loads((folder / "load.json").read_text("utf-8"))["pack"] == about["pack"]
    except (OSError, ValueError, KeyError):
        return "load.json cannot be read"
    return None if same else "it is of another pack than the others"


def put(file: Path, entry: dict, work: Path) -> None:
    """One file of a load where the lane looks for it."""
    if file.name == "source.tar.gz":
        with tarfile.open(file) as tar:
            tar.extractall(work / "source", filter="data")
    elif file.suffix == ".whl":
        if wanted(file, entry["part"]):
            install(file, work / SITE)
    else:
        target = work / entry["name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def wanted(wheel: Path, part: str) -> bool:
    """Whether the machine has none of it, or (but for what is merely `wider`) an older one."""
    name, version = wheel.name.split("-")[:2]
    try:
        here = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
    return part != "wider" and numbers(here) < numbers(version)


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.split("+", maxsplit=1)[0])]


def install(wheel: Path, site: Path) -> None:
    """Unzip a wheel as pip would lay it out, but for its scripts."""
    folders: set[Path] = set()
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            path = place(entry)
            if path is None:
                continue
            if path.startswith("/") or ".." in path.split("/"):
                raise CannotRun(f"{wheel.name}: {entry} points outside of the wheel; pack again")
            target = site / path
            if target.parent not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent)
            target.write_bytes(archive.read(entry))


def place(entry: str) -> str | None:
    """Where an entry of a wheel goes below site-packages; None for folders, scripts and headers."""
    top, _, rest = entry.partition("/")
    if entry.endswith("/"):
        return None
    if not top.endswith(".data"):
        return entry
    kind, _, inner = rest.partition("/")
    return inner if kind in ("purelib", "platlib") else None


# -- the machine


def environment(given: argparse.Namespace, device: str) -> dict:
    """Of every child: the pack's libraries before the machine's, no network, no bytecode of other users."""
    source = HERE.parent.parent if given.here else given.work / "source"
    paths = [str(given.work / SITE), str(source), str(source / "benchmarks" / "gpu")]
    own = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
           "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(given.work / "hf"),
           "TQDM_DISABLE": "1", "DAGSTER_DISABLE_TELEMETRY": "yes"}  # fmt: skip
    if given.cpu:
        own["CUDA_VISIBLE_DEVICES"] = ""
    if given.cpu or device == "cpu":
        own["OMP_NUM_THREADS"] = "1"  # toys are too small for more threads, which only wait for each other
    return {**os.environ, **own}


def probe(given: argparse.Namespace) -> dict:
    """What torch sees here, asked in a child: this process never touches the device."""
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(
        command, env=environment(given, "unknown"), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise CannotRun(f"torch does not load in {sys.executable}: {said[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_machine(about: dict, machine: dict) -> None:
    """Said before the stages: no GPU, another CUDA, a card that is in use."""
    say(f"{machine['card'] or 'no GPU: toy sizes on the CPU'}; torch {machine['libraries']['torch']},"
        f" CUDA {machine['cuda']}, Python {machine['python']}; pack of {about['made']}")  # fmt: skip
    if machine["device"] != "cuda":
        return
    if machine["cuda"] != about["cuda"]:
        say(f"the pack's bitsandbytes was made for CUDA {about['cuda']}: QLoRA and int8 may fail; "
            f"pack again with --cuda {machine['cuda']}")  # fmt: skip
    taken = machine["total_bytes"] - machine["free_bytes"]
    machine["in_use_bytes"] = max(0, taken - 1_000_000_000)  # this probe and the driver take some
    if machine["in_use_bytes"]:
        say(f"the card is in use: {taken / 1e9:.1f} GB are taken; stages that need all of it are skipped")


# -- the stages


class Lane:
    """Runs stages one after another, each in a child that is ended with all its descendants at its limit."""

    def __init__(self, given: argparse.Namespace, about: dict, machine: dict, started: float) -> None:
        self.given, self.about, self.machine, self.started = given, about, machine, started
        self.ran: list[str] = []
        self._refuse_other_results()

    @property
    def left(self) -> float:
        """Seconds of this call."""
        return self.given.budget - (time.monotonic() - self.started)

    def file(self, stage: str) -> Path:
        return self.given.out / f"{stage}.json"

    def result(self, stage: str) -> dict:
        try:
            return json.loads(self.file(stage).read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def _refuse_other_results(self) -> None:
        for stage in STAGES:
            if self.given.fresh:
                self.file(stage).unlink(missing_ok=True)
            there = self.result(stage).get("machine", self.machine)
            if (there["card"], there["libraries"]["torch"]) != (
                self.machine["card"],
                self.machine["libraries"]["torch"],
            ):
                raise CannotRun(
                    f"{self.file(stage)}: results of another machine ({there['card'] or 'CPU'}); name another"
                    " folder with --out, or say --fresh to forget them"
                )

    def run(self, stages: list[str]) -> None:
        for stage in stages:
            limit = min(self.given.limit or STAGES[stage][1], self.left)
            if limit < 5:
                say(f"{stage}: no time left in this call; call again, it goes on from here")
                continue
            self.ran.append(stage)
            began = time.monotonic()
            say(f"{stage}: {STAGES[stage][0]} …")
            self._conclude(stage, self._child(stage, limit), limit, time.monotonic() - began)
            (self.given.out / "table.md").write_text(self.table() + "\n", "utf-8")

    def _child(self, stage: str, limit: float) -> int | None:
        """Its exit code; None where it was ended at its limit."""
        given = self.given
        context = given.work / f"{stage}.context.json"
        context.write_text(json.dumps({
            "stage": stage, "out": str(given.out), "work": str(given.work), "loads": str(given.loads),
            "machine": self.machine, "pack": self.about["pack"], "cuda_of_pack": self.about["cuda"],
            "real": given.real or self.machine["device"] == "cuda",
            "deadline": time.time() + limit, "file": str(self.file(stage)),
        }))  # fmt: skip
        python = [sys.executable, "-P", "-m"]
        command = [*python, "ft_dagster.launch.supervisor", "--grace", "5", "--kill-after", "3",
                   "--marker", f"lane-{stage}-{os.getpid()}", "--", *python, "stages",
                   str(context)]  # fmt: skip
        trim(given.out / "lane.log")
        with (given.out / "lane.log").open("ab") as log:
            log.write(f"\n== {stage} {time.strftime('%F %T')}\n".encode())
            log.flush()
            child = subprocess.Popen(
                command,
                env=environment(given, self.machine["device"]),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                return child.wait(limit)
            except subprocess.TimeoutExpired:
                end(child)
                return None
            except BaseException:  # Ctrl-C: nothing is left behind
                end(child)
                raise
            finally:
                child.stdin.close()

    def _conclude(self, stage: str, code: int | None, limit: float, seconds: float) -> None:
        """Write how the stage ended into its result; what it wrote while it ran stays."""
        result = self.result(stage) or {"stage": stage, "machine": self.machine, "cases": {}}
        for case in result["cases"].values():
            if case["status"] == "running":
                case.update(status="ended", reason="it ran when the stage was ended")
        if code is None:
            result.update(status="ended", reason=f"past its {limit:.0f} s: ended with its children")
        elif code not in (0, 3):
            result.update(status="failed", reason=f"exit code {code}: see lane.log")
        result["seconds"] = round(result.get("seconds", 0) + seconds, 1)
        write(self.file(stage), result)
        say(
            f"{stage}: {TEXT[result['status']]} in {seconds:.0f} s"
            + (f" ({result['reason']})" if result.get("reason") else "")
        )

    def failed(self) -> bool:
        results = [self.result(stage) for stage in self.ran]
        wrong = [case for each in results for case in each["cases"].values() if case["status"] == "failed"]
        return bool(wrong) or any(each["status"] == "failed" for each in results)

    def table(self) -> str:
        """Markdown: every case with what it came to."""
        card = self.machine["card"] or f"CPU ({os.cpu_count()} cores), toy sizes"
        lines = [f"**{card}**, torch {self.machine['libraries']['torch']}, {time.strftime('%F')}", "",
                 "| stage | case | status | figures |", "|---|---|---|---|"]  # fmt: skip
        for stage in STAGES:
            result = self.result(stage)
            for name, case in result.get("cases", {}).items():
                told = "; ".join(filter(None, [case.get("said", ""), case.get("reason", "")]))
                lines.append(f"| {stage} | {name} | {case['status']} | {told.replace('|', '/')} |")
            if result and (result["status"] in ("ended", "failed", "skipped") or not result["cases"]):
                lines.append(f"| {stage} | | {result['status']} | {result.get('reason', '')} |")
        return "\n".join(lines)


def end(child: subprocess.Popen) -> None:
    """Interrupt the supervisor, which ends every descendant of the stage, and wait until it did."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(40)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def trim(log: Path) -> None:
    """Keep the end of a log that grew too long to be carried home."""
    if log.exists() and log.stat().st_size > LOG_KEPT:
        log.write_bytes(log.read_bytes()[-LOG_KEPT // 2 :])


def write(file: Path, content: dict) -> None:
    """Whole or not at all."""
    draft = file.with_name(f".{file.name}")
    draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(file)


if __name__ == "__main__":
    sys.exit(main())
