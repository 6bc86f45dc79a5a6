"""Stage 2, right: every method against the CPU, packed against alone, kill and resume, a cancel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.common import Case, Context, Wrong, child, last_line, python, until
from stages.trainings import (
    METHODS,
    QUANTIZED,
    TRAINING,
    Training,
    furthest,
    relative,
    run_together,
    short_rows,
    write_mixture,
)

# Largest relative difference of a step's loss between the devices, in fp32. Quantized bases: bitsandbytes has
# kernels of its own on each device, and int8 rounds activations as well (to fp16 on CUDA).
TOLERANCE = dict.fromkeys(METHODS, 1e-3) | {"qlora": 2e-2, "lora_8bit": 5e-2}
UPDATES = ("full", "lora", "qlora", "lora_8bit")  # a prompt teaches a random model little in twelve steps
PACKED = {"float32": 1e-4, "bfloat16": 5e-2}  # largest difference of a logit, over the largest logit
TINY = 2_000_000_000  # bytes of a GPU that a training of the tiny model has room in
LEFT = 50_000_000  # bytes of device memory that may differ after a program ended: the driver's own
KILLED = {"cuda": ("lora", "full", "qlora"), "cpu": ("lora",)}  # a run of the trainer takes a CPU its time
STEPS = {"num_train_epochs": 6.0, "evaluations": 6, "keep_best": 2, "keep_last": 2}


def cases(context: Context) -> list[Case]:
    return [
        *(Case(f"{name} against CPU", partial(against_cpu, context, name)) for name in METHODS),
        Case("packed equals alone", lambda: packed(context)),
        *(
            Case(f"{name} killed and resumed", partial(resumed, context, name))
            for name in KILLED[context.device]
        ),
        *(
            Case(f"{name} in bf16 killed and resumed", partial(resumed, context, name, "bf16"))
            for name in (KILLED["cuda"] if context.gpu else ())
        ),
        Case("cancel leaves nothing", lambda: cancelled(context)),
    ]


def mixture(context: Context) -> Path:
    folder = context.scratch / "mixture"
    if not (folder / "validation").exists():
        write_mixture(folder, train=short_rows(48, 1), validation=short_rows(8, 2))
    return folder


def twelve_steps(context: Context, device: str) -> dict[str, Training]:
    """By method: twelve steps in fp32, without dropout."""
    kind = context.device if device == "here" else device
    settings = {"learning_rate": 5e-3, "max_steps": 12}
    return {
        name: Training(
            context.scratch / f"{name}-{device}", context.tiny, mixture(context), kind, method, settings
        )
        for name, method in METHODS.items()
        if name not in QUANTIZED or context.has_bitsandbytes
    }


def against_cpu(context: Context, name: str) -> dict[str, Any]:
    """The losses of twelve steps by the trainer program on the device and on the CPU."""
    context.need_memory(TINY)
    if name in QUANTIZED:
        context.need_bitsandbytes()
    trainings = {device: twelve_steps(context, device) for device in ("cpu", "here")}
    for of_device in trainings.values():
        code = run_together(list(of_device.values()))
    here, cpu = trainings["here"][name], trainings["cpu"][name]
    ours, theirs = here.figures(code), cpu.figures(code)
    difference = relative(here.losses(), cpu.losses())
    validation = relative([ours["validation_loss_last"]], [theirs["validation_loss_last"]])
    figures = {
        "loss_difference": difference, "validation_difference": validation, "tolerance": TOLERANCE[name],
        "losses": here.losses(), "losses_on_cpu": cpu.losses(),
        "weights_difference": furthest(here.weights(), cpu.weights()),
        "device_bytes": ours["peak_device_memory_bytes"],
    }  # fmt: skip
    worst = max(difference, validation)
    figures["said"] = (
        f"losses within {worst:.1e} (allowed {TOLERANCE[name]:.0e}),"
        f" weights within {figures['weights_difference']:.1e}"
    )
    if not worst <= TOLERANCE[name]:
        raise Wrong(f"losses differ by {worst:.1e}, more than {TOLERANCE[name]:.0e}", figures)
    if ours["validation_loss_last"] == ours["validation_loss_first"]:
        raise Wrong("nothing was learned: the validation loss stayed as it was", figures)
    if name in UPDATES and not ours["validation_loss_best"] < ours["validation_loss_first"]:
        raise Wrong("the validation loss did not fall", figures)
    return figures


def packed(context: Context) -> dict[str, Any]:
    """Logits of examples that share a row, as the trainer lays them out, against each alone."""
    context.need_memory(TINY)
    figures: dict[str, Any] = {}
    for dtype, allowed in PACKED.items():
        if dtype == "bfloat16" and not context.gpu:
            continue
        found = json.loads(
            python("stages.packed", str(context.tiny), str(mixture(context)), context.device, dtype)
        )
        figures[dtype] = found
        if not found["difference"] <= allowed:
            raise Wrong(
                f"{dtype}: logits differ by {found['difference']:.1e}, more than {allowed:.0e}", figures
            )
        if not found["neighbour"] > 10 * max(found["difference"], 1e-6):
            raise Wrong(
                f"{dtype}: the check tells nothing: without positions nothing changes either", figures
            )
    figures["said"] = ", ".join(
        f"{dtype} within {found['difference']:.1e}" for dtype, found in figures.items()
    )
    return figures


def resumed(context: Context, name: str, precision: str = "fp32") -> dict[str, Any]:
    """A training killed (SIGKILL) after a checkpoint and run again, against one that nobody disturbed. In
    bf16 a GPU attends by its variable-length kernel, in fp32 by another.
    """
    context.need_memory(TINY)
    if name in QUANTIZED:
        context.need_bitsandbytes()
    method = METHODS[name] if name == "full" else {**METHODS[name], "dropout": 0.1}
    scratch, settings = context.scratch, {**STEPS, "precision": precision}
    one, other = (
        Training(
            scratch / f"{name}-{precision}-{what}",
            context.tiny,
            mixture(context),
            context.device,
            method,
            settings,
        )
        for what in ("undisturbed", "killed")
    )
    one.run()
    at = kill_after_checkpoint(other)
    code, said = _again(other)
    figures = {"killed_at": at, "resumed_from": other.figures(code, said)["resumed_from"]}
    if not figures["resumed_from"]:
        raise Wrong("it did not resume: it began anew", figures)
    if other.digest() == one.digest():
        return {
            **figures,
            "said": f"killed after step {at}, resumed from {figures['resumed_from'][-1]}: bit for bit",
        }
    return _why_not(one, other, figures)


def _why_not(one: Training, other: Training, figures: dict[str, Any]) -> dict[str, Any]:
    """Not bit for bit: whether two undisturbed trainings are, and by how much each pair differs."""
    again = replace(one, folder=one.folder.with_name("again"))
    again.run()
    figures["difference"] = furthest(other.weights(), one.weights())
    figures["undisturbed_difference"] = furthest(again.weights(), one.weights())
    if again.digest() == one.digest():
        raise Wrong(
            f"resumed weights differ by {figures['difference']:.1e}; two undisturbed trainings are equal",
            figures,
        )
    figures["said"] = (
        f"resumed from {figures['resumed_from'][-1]}, weights within {figures['difference']:.1e}: not bit for"
        f" bit, as two undisturbed trainings here differ by {figures['undisturbed_difference']:.1e}"
    )
    if figures["difference"] > 10 * figures["undisturbed_difference"]:
        raise Wrong("the resumed training is further off than two undisturbed ones", figures)
    return figures


def kill_after_checkpoint(training: Training) -> int:
    """Start it, and kill -9 it once a checkpoint is committed; the step of that checkpoint."""
    folder = training.write()
    environment = {**os.environ, **training.environment()}
    program = subprocess.Popen([sys.executable, "-P", "-m", TRAINING, str(folder)], env=environment)
    try:
        found = until(
            lambda: program.poll() is not None or list(training.output.glob("checkpoints/*/checkpoint.json")),
            120, "a checkpoint",
        )  # fmt: skip
        if found is True:
            raise Wrong(f"the trainer ended with {program.returncode} before its first checkpoint")
        return max(int(file.parent.name.split("-")[1]) for file in found)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()


def _again(training: Training) -> tuple[int, str]:
    """The same folder once more."""
    return child(TRAINING, str(training.folder), environment=training.environment())


class _Cancelled(Exception):
    pass


def cancelled(context: Context) -> dict[str, Any]:
    """A training under launcher and lease is cancelled: no process, no lease, no device memory stays."""
    from ft_dagster.host_settings import Host
    from ft_dagster.launch.inventory import find_devices
    from ft_dagster.launch.leases import Ask, Leases
    from ft_dagster.launch.local import Patience, run_program
    from ft_dagster.launch.processes import carriers

    context.need_memory(TINY)
    training = Training(
        context.scratch / "cancelled", context.tiny, mixture(context), context.device, METHODS["lora"],
        {**STEPS, "num_train_epochs": 2000.0},
    )  # fmt: skip
    leases, marker = Leases(context.scratch / "leases", find_devices(Host())), f"lane-cancel-{os.getpid()}"
    before, stop = used_memory(), threading.Event()
    during: list[int | None] = []

    def poll() -> None:
        if len(training_steps(training)) >= 3:
            during.append(used_memory())
            stop.set()
        if stop.is_set():
            raise _Cancelled

    with leases.acquire(Ask("lane.cancel", "lane", 1, 0, "cancel", marker)) as lease:
        try:
            code = run_program(
                TRAINING, training.write(), lease, poll=poll, marker=marker,
                patience=Patience(grace=20, kill_after=2), output=training.folder / "output.log",
            )  # fmt: skip
            said = (training.folder / "output.log").read_text("utf-8")
            raise Wrong(f"the trainer ended by itself with {code}: {last_line(said)[:300]}")
        except _Cancelled:
            pass
    left = [process.pid for process in carriers(marker)]
    states = {row.state for row in leases.table().devices}
    after = used_memory()
    figures = {"processes_left": left, "leases": sorted(states), "bytes": [before, *during, after]}
    if left or states != {"free"}:
        raise Wrong("a process or a lease is left", figures)
    grown = (after or 0) - (before or 0)
    if grown > LEFT:
        raise Wrong(f"{grown / 1e6:.0f} MB of device memory are still taken", figures)
    memory = ""
    if before is not None and during[0] is not None:
        memory = (
            f"; {during[0] / 1e6:,.0f} MB of the device at work, {grown / 1e6:,.0f} MB more left than before"
        )
    return {**figures, "said": f"no process, no lease left{memory}"}


def training_steps(training: Training) -> list[dict[str, Any]]:
    try:
        return training.log()
    except (OSError, ValueError):
        return []


def used_memory() -> int | None:
    """Bytes taken on the first GPU, by all; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    except pynvml.NVMLError:
        return None
