"""Stage 3, foretold: the dry run's bytes against the allocator's, and the largest micro-batch said to fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from stages.common import Case, Context, Skipped, Wrong
from stages.planned import Asked, Foretold, Shape, foretell, hardware, largest
from stages.trainings import METHODS, QUANTIZED, Training, full_rows, write_mixture

ALLOWED = 0.10  # of the measured bytes that a foretold figure may be off
BEYOND = (1.05, 1.1, 1.2, 1.4)  # times the largest micro-batch, until one fails
GPU_CASES = [
    *(("135m", name, Shape(rows, 1024, again)) for name in ("lora", "full", "qlora", "lora_8bit")
      for rows, again in ((1, False), (8, True))),
    *(("1b", name, Shape(rows, 1024, again)) for name in ("lora", "full", "qlora")
      for rows, again in ((1, False), (4, True))),
    *(("8b", name, Shape(rows, 1024, again)) for name in ("lora", "qlora", "full")
      for rows, again in ((1, False), (4, True))),
]  # fmt: skip
GPU_LARGEST = [("135m", "lora", False), ("135m", "full", False), ("1b", "lora", False), ("8b", "qlora", True)]
TOY_CASES = [("toy-a", "lora", Shape(2, 64, False)), ("toy-b", "full", Shape(2, 64, True))]
TOY_LARGEST = [("toy-a", "lora", False)]


def cases(context: Context) -> list[Case]:
    listed, tried = (GPU_CASES, GPU_LARGEST) if context.gpu else (TOY_CASES, TOY_LARGEST)
    single = [
        Case(f"{model} {name} {say(shape)}", partial(one, context, model, name, shape))
        for model, name, shape in listed
    ]
    most = [
        Case(f"{model} {name}: the largest micro-batch", partial(wall, context, model, name, again))
        for model, name, again in tried
    ]
    return [*single[:4], *most[:1], *single[4:], *most[1:]]


def say(shape: Shape) -> str:
    return f"{shape.rows}x{shape.length}{' checkpointing' if shape.checkpointing else ''}"


def folder_of(context: Context, model: str) -> Path:
    return context.real_model() if model == "135m" else context.random_model(model)


def precision_of(context: Context) -> Literal["bf16", "fp32"]:
    return "bf16" if context.gpu else "fp32"


def prepare(context: Context, model: str, name: str) -> Asked:
    """Raises Skipped where figures would not be of this training alone, or it cannot run."""
    context.need_whole_card()
    if name in QUANTIZED:
        context.need_bitsandbytes()
    return Asked(folder_of(context, model), METHODS[name], precision_of(context), context.device)


def one(context: Context, model: str, name: str, shape: Shape) -> dict[str, Any]:
    """A training of three steps against what was foretold of it."""
    asked = prepare(context, model, name)
    said = foretell(asked, shape)
    memory = hardware().memory_bytes or 0
    if said.total > memory:
        raise Skipped(f"{said.total / 1e9:.1f} GB foretold, the device has {memory / 1e9:.1f}")
    context.need_memory(said.total)
    return held_against(said, measure(context, asked, shape, steps=3), context)


def measure(context: Context, asked: Asked, shape: Shape, steps: int) -> dict[str, Any]:
    """The trainer's figures of `steps` steps on rows that are full. Raises Wrong."""
    mixture = write_mixture(context.scratch / "mixture", train=full_rows(shape.rows * steps, shape.length))
    settings = {
        **shape.settings(),
        "max_steps": steps,
        "precision": asked.precision,
        "learning_rate": 1e-4,
    }
    return Training(context.scratch / "run", asked.model, mixture, asked.device, asked.method, settings).run()


def held_against(said: Foretold, figures: dict[str, Any], context: Context) -> dict[str, Any]:
    """Foretold over measured; on a GPU both have to be within ALLOWED, a process on a CPU proves nothing."""
    if not context.gpu:
        grown = figures["peak_memory_bytes"] - figures["imported_bytes"]
        told = {"foretold_total": said.total, "process": grown}
        return {
            **told,
            "said": f"foretold {said.total / 1e6:,.0f} MB, the process grew by {grown / 1e6:,.0f} MB",
        }
    measured = {
        "allocated": figures["peak_device_memory_bytes"],
        "reserved": figures["peak_device_reserved_bytes"],
    }
    told = {"allocated": said.allocated, "reserved": said.reserved}
    off = {kind: told[kind] / measured[kind] - 1 for kind in told}
    line = "; ".join(
        f"{kind}: foretold {told[kind] / 1e9:.2f} GB, measured {measured[kind] / 1e9:.2f} ({off[kind]:+.1%})"
        for kind in told
    )
    found = {"foretold": told, "measured": measured, "off": off, "phase": said.phase, "said": line}
    if max(map(abs, off.values())) > ALLOWED:
        raise Wrong(f"more than {ALLOWED:.0%} off", found)
    return found


def wall(context: Context, model: str, name: str, checkpointing: bool) -> dict[str, Any]:
    """The largest micro-batch by the plan is trained, and larger ones until one fails."""
    asked = prepare(context, model, name)
    shape = Shape(1, 1024 if context.gpu else 64, checkpointing)
    memory = hardware().memory_bytes or 0
    if not context.gpu:  # room for six rows
        memory = foretell(asked, replace(shape, rows=6)).total
    most = largest(asked, shape, memory)
    if most is None:
        raise Skipped(f"not one row fits {memory / 1e9:.1f} GB")
    found: dict[str, Any] = {"largest": most, "memory": memory}
    figures = measure(context, asked, replace(shape, rows=most), steps=1)
    found["reserved"] = figures["peak_device_reserved_bytes"]
    if not context.gpu:
        return {
            **found,
            "said": f"{most} rows by the plan, trained; a CPU's memory has no wall to try the next against",
        }
    for rows in (most + 1, *(round(most * times) for times in BEYOND)):
        if not fits(context, asked, replace(shape, rows=rows)):
            found["fails"] = rows
            break
    reserved = f"{found['reserved'] / memory:.0%} of the card reserved"
    if "fails" not in found:
        raise Wrong(f"{most} rows by the plan ran ({reserved}), and so did {round(most * BEYOND[-1])}", found)
    next_one = (
        "the next one fails" if found["fails"] == most + 1 else f"the first that fails is {found['fails']}"
    )
    return {**found, "said": f"{most} rows by the plan ran, {reserved}; {next_one}"}


def fits(context: Context, asked: Asked, shape: Shape) -> bool:
    """Whether it trains a step. Raises Wrong where it fails for another reason than memory."""
    try:
        measure(context, asked, shape, steps=1)
        return True
    except Wrong as wrong:
        if wrong.figures.get("out_of_memory"):
            return False
        raise
