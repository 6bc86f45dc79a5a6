"""The demo with its store, or its trainings, elsewhere: the models of a folder, and what each stage asks for.

    .venv/bin/python -m benchmarks.demo_elsewhere --quick          # a tiny model, all ways, some minutes
    .venv/bin/python -m benchmarks.demo_elsewhere --variants meditech.icd-coder

From the project's root. Ways, each with a store of its own, as `ft-dagster run` goes through Dagster:

- `folder`: the store in a folder. The others are held against its digests, of each stage of each variant.
- `s3`: on a real S3 server (rclone).
- `killed`: that server is killed by SIGKILL every 150 requests, and started again 3 s later.
- `slow`: 100 ms before each request, every 25th refused with 503, every 40th cut.
- `history`: `s3` five times, each with another seed: what the second version and the last one asked for.

The demo is prepared before (`examples/demo/prepare.py`); its declarations are copied and shortened: 12
optimizer steps, 8 questions of the own task, less general text, margins that let everything pass. A proxy
before the server counts; a request is of the stage that ran then, by Dagster's log, and bytes are those of
bodies. What a way came to is kept in `--folder`, for each choice of `--variants`. One that was broken off
goes on from its store, and its requests are those of the last call. Exits with 1 where a digest is another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.launch.environment import environment_with
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.versions.summary import variant_summary
from tests.e2e.project import POLICY, edit, write_project, write_yaml
from tests.s3_server import S3Server, free_port, start_s3
from tests.tiny_model import make_tiny_model
from tests.troubled_s3 import Asked, Troubles, trouble

HERE = Path(__file__).resolve().parent
FT_DAGSTER = Path(sys.executable).with_name("ft-dagster")
WAYS = ("folder", "s3", "killed", "slow", "history")
EVERY, DOWN = 150, 3.0  # requests from one death of the server to the next; seconds until it is back
LATENCY, OFTEN = 0.1, {25: "503", 40: "cut"}
VERSIONS = 5  # of `history`
SHORT = {"max_steps": 12, "evaluations": 4}
ENDS = ("STEP_SUCCESS", "STEP_FAILURE", "STEP_UP_FOR_RETRY")
BETWEEN = "between stages"


@dataclass
class Cost:
    """Of a stage: requests by method (a listing is LIST), bytes sent and got."""

    requests: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    got: int = 0
    listed: int = 0


@dataclass
class Came:
    """What a way came to. `digests`: of each variant's stages. `happened`: what was done to it on the way."""

    digests: dict[str, dict[str, str | None]]
    stages: dict[str, Cost] = field(default_factory=dict)
    seconds: float = 0.0
    happened: dict[str, int] = field(default_factory=dict)


class Server:
    """A real S3 server that can be killed, behind the proxy that counts and troubles."""

    def __init__(self, folder: Path, down: float) -> None:
        self.folder, self.down, self.port, self.deaths = folder, down, free_port(), 0
        self.process = start_s3(folder, self.port)
        self.direct = S3Server(f"http://127.0.0.1:{self.port}", "artifacts", folder / "artifacts")

    def die(self) -> None:
        self.process.kill()
        self.process.wait()
        self.deaths += 1
        time.sleep(self.down)
        self.process = start_s3(self.folder, self.port)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Site:
    """One way's own store, work folder and Dagster home, over the project that all share."""

    project: Path
    folder: Path
    variants: tuple[str, ...]
    environment: Mapping[str, str]

    def run(self) -> float:
        """`ft-dagster run`, a variant after the other, so that a moment belongs to one stage; seconds."""
        began = time.monotonic()
        for variant in self.variants:
            subprocess.run([FT_DAGSTER, "run", variant], env=dict(self.environment), check=True)
        return time.monotonic() - began

    def digests(self) -> dict[str, dict[str, str | None]]:
        with environment_with(self.environment):
            settings = load_settings(self.project)
            keys = [VariantKey.parse(variant) for variant in self.variants]
            return {str(key): variant_summary(settings.open_store(key.tenant), key).stages for key in keys}

    def steps(self, since: float) -> list[tuple[float, float, str]]:
        """(begin, end, stage) of each step that Dagster ran, in seconds since 1970."""
        found: list[tuple[float, float, str]] = []
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            for run in instance.get_runs():
                begun: dict[str, float] = {}
                for entry in instance.all_logs(run.run_id):
                    event = entry.dagster_event
                    if event is None or event.step_key is None or entry.timestamp < since:
                        continue
                    if event.event_type_value in ("STEP_START", "STEP_RESTARTED"):
                        begun[event.step_key] = entry.timestamp
                    elif event.event_type_value in ENDS and event.step_key in begun:
                        found.append((begun.pop(event.step_key), entry.timestamp, event.step_key))
        return found


def by_stage(asked: list[Asked], steps: list[tuple[float, float, str]]) -> dict[str, Cost]:
    """What each stage asked of the server, by when it ran."""
    stages: dict[str, Cost] = defaultdict(Cost)
    for one in asked:
        stage = next((name for begin, end, name in steps if begin <= one.at <= end), BETWEEN)
        cost, lists = stages[stage], "list-type=" in one.address
        method = "LIST" if lists else one.method
        cost.requests[method] = cost.requests.get(method, 0) + 1
        cost.sent += one.sent
        cost.got += one.got
        cost.listed += one.got if lists else 0
    return dict(stages)


def site_of(project: Path, folder: Path, variants: tuple[str, ...], **more: str) -> Site:
    outer = {n: value for n, value in os.environ.items() if not n.startswith(("DAGSTER_", "FT_DAGSTER_"))}
    own = {
        "FT_DAGSTER_PROJECT": str(project),
        "FT_DAGSTER_STORE": str(folder / "store"),
        "FT_DAGSTER_WORK": str(folder / "work"),
        "FT_DAGSTER_HOST__LOCK_FOLDER": str(folder / "leases"),
        "FT_DAGSTER_RETRIES__WAIT_SECONDS": "1",
        "DAGSTER_HOME": str(folder / "home"),
    }
    return Site(project, folder, variants, {**outer, **own, **more})


@contextmanager
def served(folder: Path, down: float = DOWN) -> Iterator[tuple[Server, Troubles, dict[str, str]]]:
    """A server for one way, what is done to its requests, and the environment that names its store."""
    with ExitStack() as stack:
        server = Server(folder / "s3", down)
        stack.callback(server.close)
        proxied, troubles = stack.enter_context(trouble(server.direct))
        options = json.dumps({"endpoint_url": proxied.endpoint})
        names = {"FT_DAGSTER_STORE": f"s3://{proxied.bucket}/demo", "FT_DAGSTER_STORE_OPTIONS": options}
        yield server, troubles, {**proxied.environment, **names}


def on_folder(project: Path, folder: Path, variants: tuple[str, ...]) -> Came:
    site = site_of(project, folder, variants)
    seconds = site.run()
    return Came(site.digests(), seconds=seconds)


def on_s3(
    project: Path,
    folder: Path,
    variants: tuple[str, ...],
    disturb: Callable[[Server, Troubles], Callable[[], dict[str, int]]] | None = None,
    down: float = DOWN,
) -> Came:
    """`disturb`: begins what goes wrong, and gives back what ends that and says what happened. `down`: how
    long a killed server is away, in seconds.
    """
    began = time.time()
    with served(folder, down) as (server, troubles, environment):
        site = site_of(project, folder, variants, **environment)
        ended = disturb(server, troubles) if disturb else dict
        try:
            seconds = site.run()
        finally:
            happened = ended()
        asked = list(troubles.log)
        digests = site.digests()
    return Came(digests, by_stage(asked, site.steps(began)), seconds, happened)


def killing(server: Server, troubles: Troubles) -> Callable[[], dict[str, int]]:
    """Kill the server every so many requests."""
    done = threading.Event()

    def work() -> None:
        due = EVERY
        while not done.wait(0.01):
            if troubles.asked.total() >= due:
                server.die()
                due = troubles.asked.total() + EVERY

    thread = threading.Thread(target=work)
    thread.start()

    def end() -> dict[str, int]:
        done.set()
        thread.join()
        return {"the server was killed": server.deaths}

    return end


def slowing(latency: float, server: Server, troubles: Troubles) -> Callable[[], dict[str, int]]:
    """Let each request wait `latency` seconds, and some fail."""
    troubles.latency, troubles.often = latency, dict(OFTEN)

    def end() -> dict[str, int]:
        total = troubles.asked.total()
        troubles.latency, troubles.often = 0.0, {}
        refused = total // 25
        return {"refused with 503": refused, "cut": total // 40 - total // 200}

    return end


def over_history(project: Path, folder: Path, variants: tuple[str, ...]) -> tuple[Came, Came]:
    """What the second version and the last cost, of the first variant; each is another training."""
    own = folder / "project"
    if not own.exists():
        copied(project, own)
    came = []
    with served(folder) as (_, troubles, environment):
        site = site_of(own, folder, variants[:1], **environment)
        tenant, _, name = variants[0].partition(".")
        for version in range(1, VERSIONS + 1):
            edit(
                own / f"tenants/{tenant}/{name}.yaml", lambda c, seed=version: c["training"].update(seed=seed)
            )
            began = time.time()
            troubles.log.clear()
            seconds = site.run()
            came.append(
                Came(
                    site.digests(),
                    by_stage(list(troubles.log), site.steps(began)),
                    seconds,
                    {"versions": version},
                )
            )
    return came[1], came[-1]


def copied(source: Path, target: Path) -> None:
    """A project without what was made of it; all but what is to be edited by links of the file system."""

    def copy(one: str, other: str) -> str:
        if one.endswith(".yaml"):
            return shutil.copy2(one, other)
        try:
            os.link(one, other)
        except OSError:  # on another disk
            shutil.copy2(one, other)
        return other

    shutil.copytree(source, target, copy_function=copy, ignore=shutil.ignore_patterns(".ft_dagster"))


def short_demo(demo: Path, project: Path) -> None:
    """The demo's declarations, shortened, beside its own data and model."""
    copied(demo, project)
    write_yaml(project / "policy.yaml", POLICY)
    gates = {f"{name}_margin": 1.0 for name in ("general", "general_loss", "degeneration", "task")}

    def shorten(declared: dict[str, Any]) -> None:
        training = declared.setdefault("training", {})
        for name in ("num_train_epochs", "watch"):  # steps are counted, and nothing is asked meanwhile
            training.pop(name, None)
        training.update(SHORT)
        declared.setdefault("evaluation", {}).update(limit=8, general=[], max_new_tokens=4)
        declared["gates"] = {**gates, "undecided": "measured"}

    for file in project.glob("tenants/*/*.yaml"):
        edit(file, shorten)
    edit(project / "corpora/general.yaml", lambda content: content.update(holdout=0.01))


def tiny_demo(project: Path) -> None:
    base = make_tiny_model(project / "models/tiny")
    write_project(project, base)
    longer = {"num_train_epochs": 40, "per_device_train_batch_size": 4, "evaluations": 10}
    for file in project.glob("tenants/*/*.yaml"):
        edit(file, lambda c: c["training"].update(longer))


def differences(came: Came, folder: Came) -> list[str]:
    return [
        f"{variant} {stage}"
        for variant, stages in folder.digests.items()
        for stage, digest in stages.items()
        if came.digests[variant][stage] != digest
    ]


def said(name: str, came: Came, reference: Came | None) -> list[str]:
    """A way's table, in Markdown."""
    happened = ", ".join(f"{what}: {count}" for what, count in came.happened.items())
    lines = [f"**{name}**: {came.seconds:.0f} s" + (f"; {happened}" if happened else "")]
    if reference is not None:
        other = differences(came, reference)
        lines[0] += f"; other digests than on a folder: {', '.join(other) or 'none'}"
    if came.stages:
        lines += [
            "",
            "| stage | requests | of them | MB sent | MB got | kB of listings |",
            "|---|---|---|---|---|---|",
        ]
        for stage, cost in came.stages.items():
            parts = ", ".join(f"{count} {method}" for method, count in sorted(cost.requests.items()))
            moved = f"{cost.sent / 1e6:.2f} | {cost.got / 1e6:.2f} | {cost.listed / 1e3:.1f}"
            lines.append(f"| {stage} | {sum(cost.requests.values())} | {parts} | {moved} |")
    return [*lines, ""]


def kept(file: Path, work: Callable[[], list[Came]]) -> list[Came]:
    """What an earlier call came to, else what `work` does, kept."""
    if not file.exists():
        content = json.dumps([asdict(came) for came in work()], indent=1)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, "utf-8")
    read = json.loads(file.read_text("utf-8"))
    return [Came(**{**one, "stages": {n: Cost(**c) for n, c in one["stages"].items()}}) for one in read]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and two small tenants")
    parser.add_argument("--demo", type=Path, default=HERE.parent / "examples" / "demo", help="prepared")
    parser.add_argument("--variants", nargs="+", help="all if not given")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--latency", type=float, default=LATENCY, help="of `slow`: seconds before a request")
    parser.add_argument("--down", type=float, default=DOWN, help="of `killed`: seconds until it is back")
    parser.add_argument("--folder", type=Path, default=HERE / ".work" / "demo_elsewhere")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call came to")
    given = parser.parse_args()
    folder = given.folder.resolve() / ("quick" if given.quick else "demo")
    if given.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    project = folder / "project"
    if not project.exists():
        tiny_demo(project) if given.quick else short_demo(given.demo.resolve(), project)
    variants = tuple(given.variants or (str(key) for key in Declarations(project)))
    ways: dict[str, Callable[[Path], list[Came]]] = {
        "folder": lambda own: [on_folder(project, own, variants)],
        "s3": lambda own: [on_s3(project, own, variants)],
        "killed": lambda own: [on_s3(project, own, variants, killing, given.down)],
        "slow": lambda own: [on_s3(project, own, variants, partial(slowing, given.latency))],
        "history": lambda own: list(over_history(project, own, variants)),
    }
    results = folder / "results" / ("+".join(variants) if given.variants else "all")
    wrong, reference = False, None
    for name in dict.fromkeys(("folder", *given.ways)):
        came = kept(results / f"{name}.json", lambda name=name: ways[name](folder / name))
        reference = reference or came[0]
        for one in came:
            print(
                "\n".join(said(name, one, None if name in ("folder", "history") else reference)), flush=True
            )
        wrong |= name != "history" and bool(differences(came[0], reference))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
