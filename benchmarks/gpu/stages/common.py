"""What the stages share: the context they run in, cases, children, files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PATIENCE = 240.0  # seconds of one child
DISK = 0.8  # of what is free, for one model's weights


class Skipped(Exception):
    """A case that cannot run here; the text says why."""


class Wrong(Exception):
    """A case that ran and came out wrong; `figures` are kept."""

    def __init__(self, reason: str, figures: dict[str, Any] | None = None) -> None:
        self.figures = figures or {}
        super().__init__(reason)


@dataclass(frozen=True)
class Case:
    """`run` gives figures, `said` among them; it may raise Skipped or Wrong."""

    name: str
    run: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Context:
    """What lane.py tells a stage; `real`: sizes beyond toys may be run."""

    stage: str
    out: str
    work: str
    loads: str
    machine: dict[str, Any]
    pack: str
    cuda_of_pack: str
    real: bool
    deadline: float
    file: str

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return "cuda" if self.machine["device"] == "cuda" else "cpu"

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def scratch(self) -> Path:
        """A folder of this stage's own."""
        folder = Path(self.work) / "runs" / self.stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def tiny(self) -> Path:
        return Path(self.work) / "tiny"

    @property
    def rows(self) -> Path:
        return Path(self.work) / "rows" / "faq.jsonl"

    def need_whole_card(self) -> None:
        """Raises Skipped where others use the card: figures of memory and speed would be of both."""
        taken = self.machine.get("in_use_bytes", 0)
        if taken:
            raise Skipped(f"others use {taken / 1e9:.1f} GB of the card")

    def need_memory(self, needed: int) -> None:
        """Raises Skipped where the card has fewer bytes free."""
        free = self.machine["free_bytes"]
        if self.gpu and needed > free:
            raise Skipped(f"needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} are free")

    @property
    def has_bitsandbytes(self) -> bool:
        """Whether the pack's library is of torch's CUDA."""
        return not self.gpu or self.machine["cuda"] == self.cuda_of_pack

    def need_bitsandbytes(self) -> None:
        """Raises Skipped where it is of another."""
        if not self.has_bitsandbytes:
            raise Skipped(
                f"bitsandbytes of the pack is for CUDA {self.cuda_of_pack}, here is {self.machine['cuda']}"
            )

    def real_model(self) -> Path:
        """The folder of the 135M model, put together and converted once. Raises Skipped without its loads."""
        if not self.real:
            raise Skipped("the 135M model is too slow for a CPU (--real runs it)")
        folder = Path(self.work) / "models" / "smollm2-135m"
        halves = [Path(self.work) / "model" / f"135m.gguf.{number}" for number in (1, 2)]
        if folder.is_dir():
            return folder
        missing = [half.name for half in halves if not half.exists()]
        if missing:
            raise Skipped(f"the 135M model needs its two loads: {', '.join(missing)} not here")
        gguf = folder.with_suffix(".gguf")
        gguf.parent.mkdir(parents=True, exist_ok=True)
        gguf.write_bytes(b"".join(half.read_bytes() for half in halves))
        python("stages.convert", str(gguf), str(folder))
        return folder

    def random_model(self, shape: str) -> Path:
        """The folder of a model with random bf16 weights in a shape of `models.SHAPES`, made once.

        Raises Skipped where disk or card are too small for them.
        """
        from stages.models import parameters

        folder = Path(self.work) / "models" / shape
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            needed, free = 2 * parameters(shape), shutil.disk_usage(folder.parent).free
            if needed > DISK * free:
                raise Skipped(f"its weights need {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} are free")
            self.need_memory(needed)
            python("stages.convert", "--random", shape, str(self.tiny), str(folder), self.device)
        return folder


def python(
    module: str, *arguments: str, environment: dict[str, str] | None = None, patience: float = PATIENCE
) -> str:
    """Run a module in a child; its last line on stdout. Raises Wrong where it fails or takes too long."""
    code, said = child(module, *arguments, environment=environment, patience=patience)
    if code:
        raise Wrong(f"{module} ended with {code}: {last_line(said)[:300]}")
    return last_line(said)


def child(
    module: str, *arguments: str, environment: dict[str, str] | None = None, patience: float = PATIENCE
) -> tuple[int, str]:
    """(exit code, what it printed) of `python -m module …`. Raises Wrong past `patience` seconds."""
    started = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = started.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        said, _ = started.communicate()
        print(said[-4000:], flush=True)
        raise Wrong(f"{module} took more than {patience:.0f} s") from None
    print(said[-4000:], flush=True)
    return started.returncode, said


def last_line(said: str) -> str:
    """Of what a child printed: an error's own words, or its JSON; empty where it printed nothing."""
    return (said.strip().splitlines() or [""])[-1]


def until(moment: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `moment` gives once it gives something. Raises Wrong after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := moment()):
        if time.monotonic() > deadline:
            raise Wrong(f"{what} did not come in {seconds:.0f} s")
        time.sleep(0.002)
    return found


def read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8"))


def write_json(file: Path, content: Any) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draft.replace(file)
