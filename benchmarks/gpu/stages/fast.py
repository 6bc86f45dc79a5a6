"""Stage 4, fast: tokens a second, the share of the card's own product rate, idle time, TRL beside it."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from stages.common import Case, Context, Skipped, Wrong, child, last_line, python, read_json
from stages.planned import Asked, Shape, defaults, foretell, hardware
from stages.trainings import METHODS, QUANTIZED, Training, full_rows, write_mixture

NAMES = {"cuda": ("lora", "qlora", "full"), "cpu": ("lora",)}
WARM = 2  # steps that do not count: kernels load, the allocator grows
GAIN = 1.03  # of the next larger micro-batch, below which the search ends
LENGTHS, STEPS = {"cuda": 1024, "cpu": 64}, {"cuda": 12, "cpu": 4}
MOST_TOKENS = {"cuda": 65536, "cpu": 128}  # of one step: a plan's batch may take minutes


def cases(context: Context) -> list[Case]:
    models = ("135m", "1b") if context.gpu else ("toy-a",)
    kinds = (
        ("the plan's", by_plan), ("profiled", profiled), ("TRL", trl), ("in any order", in_any_order),
        ("by hand", by_hand),
    )  # fmt: skip
    return [
        Case(f"{model} {name}, {said}", partial(work, context, model, name))
        for model in models
        for said, work in kinds
        for name in NAMES[context.device]
    ]


@lru_cache
def planned(model: Path, length: int) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    return defaults(model, length, hardware())


def setting(context: Context, model: str, name: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """(model folder, method, training settings) by the plan, for a few steps. Raises Skipped."""
    context.need_whole_card()
    if name in QUANTIZED:
        context.need_bitsandbytes()
    folder = context.real_model() if model == "135m" else context.random_model(model)
    plans = planned(folder, LENGTHS[context.device])
    if name not in plans:
        raise Skipped(f"the plan finds no layout of {name} that fits this device")
    method, training = plans[name]
    length, rows = training["max_length"], training["per_device_train_batch_size"]
    most = max(1, MOST_TOKENS[context.device] // (length * rows))
    accumulation = min(training["gradient_accumulation_steps"], most)
    few = {"max_steps": STEPS[context.device], "evaluations": 1, "keep_best": 1, "keep_last": 1}
    return folder, method, {**training, **few, "gradient_accumulation_steps": accumulation}


def training_of(
    context: Context, model: Path, method: dict[str, Any], settings: dict[str, Any], label: str
) -> Training:
    """Over rows that are full."""
    bins = (
        settings["max_steps"]
        * settings["per_device_train_batch_size"]
        * settings["gradient_accumulation_steps"]
    )
    mixture = write_mixture(context.scratch / "mixture", train=full_rows(bins, settings["max_length"]))
    return Training(context.scratch / label, model, mixture, context.device, method, settings)


def product_rate(context: Context) -> float:
    """FLOP/s of the device's own product, as stage 1 measured it, else measured now."""
    file = Path(context.out) / "machine.json"
    case = read_json(file)["cases"].get("rates", {}) if file.exists() else {}
    found = case.get("product_flops") or json.loads(python("stages.rates", context.device))["product_flops"]
    return float(found)


def speed(training: Training, context: Context) -> dict[str, Any]:
    """Of the steps after the warm ones, by the trainer's own log."""
    lines = training.log()
    counted = lines[WARM:]
    seconds = sum(line["seconds"] for line in counted)
    figures: dict[str, Any] = {"tokens_per_second": sum(line["tokens"] for line in counted) / seconds}
    if lines[-1]["flops"]:
        figures["flops_per_second"] = (lines[-1]["flops"] - lines[WARM - 1]["flops"]) / seconds
        figures["share_of_product_rate"] = figures["flops_per_second"] / product_rate(context)
    return figures


def said(figures: dict[str, Any], settings: dict[str, Any]) -> str:
    again = ", checkpointing" if settings["gradient_checkpointing"] else ""
    layout = (
        f"{settings['per_device_train_batch_size']}x{settings['max_length']}"
        f"x{settings['gradient_accumulation_steps']}{again}"
    )
    share = figures.get("share_of_product_rate")
    return f"{figures['tokens_per_second']:,.0f} tok/s ({layout})" + (
        f", {share:.1%} of the product rate" if share else ""
    )


def by_plan(context: Context, model: str, name: str) -> dict[str, Any]:
    """With the settings of the plan."""
    folder, method, settings = setting(context, model, name)
    training = training_of(context, folder, method, settings, f"{model}-{name}-plan")
    training.run()
    figures = {**speed(training, context), "settings": settings}
    return {**figures, "said": said(figures, settings)}


def in_any_order(context: Context, model: str, name: str) -> dict[str, Any]:
    """What a fixed order of sums costs: with it, as the plan has it, and without, in the same minute."""
    folder, method, settings = setting(context, model, name)
    rates = {}
    for fixed in (True, False):
        now = {**settings, "deterministic": fixed}
        training = training_of(context, folder, method, now, f"{model}-{name}-order-{fixed}")
        training.run()
        rates[fixed] = speed(training, context)["tokens_per_second"]
    ratio = rates[True] / rates[False]
    line = f"fixed order {rates[True]:,.0f} tok/s, any order {rates[False]:,.0f}: {ratio:.2f} times"
    return {"fixed_order": rates[True], "any_order": rates[False], "ratio": ratio, "said": line}


def by_hand(context: Context, model: str, name: str) -> dict[str, Any]:
    """The best of larger micro-batches, without accumulation and without checkpointing, while they fit."""
    folder, method, settings = setting(context, model, name)
    memory = hardware().memory_bytes or 0
    tried: list[tuple[float, dict[str, Any], dict[str, Any]]] = []
    rows = 1 if not context.gpu else settings["per_device_train_batch_size"]
    while rows <= (512 if context.gpu else 2):
        shape = Shape(rows, settings["max_length"], checkpointing=False)
        asked = Asked(folder, method, settings["precision"], context.device)
        if foretell(asked, shape).total > memory:
            break
        now = {**settings, **shape.settings(), "gradient_accumulation_steps": 1}
        training = training_of(context, folder, method, now, f"{model}-{name}-hand")
        training.run()
        figures = speed(training, context)
        gained = not tried or figures["tokens_per_second"] > GAIN * tried[-1][0]
        tried.append((figures["tokens_per_second"], figures, now))
        if not gained:
            break
        rows *= 2
    if not tried:
        raise Skipped("without checkpointing not one row fits")
    _, best, chosen = max(tried, key=lambda each: each[0])
    listed = {each["per_device_train_batch_size"]: round(tokens) for tokens, _, each in tried}
    return {**best, "tried": listed, "settings": chosen, "said": f"{said(best, chosen)}; tried {listed}"}


def profiled(context: Context, model: str, name: str) -> dict[str, Any]:
    """Host synchronisations and the device's idle share in three steps, by torch's profiler."""
    folder, method, settings = setting(context, model, name)
    settings = {**settings, "max_steps": 6}
    training = training_of(context, folder, method, settings, f"{model}-{name}-profiled")
    training.run("stages.profiled")
    found = read_json(training.folder / "profile.json")
    idle = f", the GPU idle {found['idle_share']:.0%}" if found["idle_share"] is not None else ""
    micro = settings["gradient_accumulation_steps"]
    line = f"{found['synchronisations']:.1f} host synchronisations a step of {micro} micro-batches{idle}"
    if found["top"]:
        line += f"; most time in {found['top'][0][0][:60]} ({found['top'][0][1]:.0%})"
    return {**found, "said": line}


def trl(context: Context, model: str, name: str) -> dict[str, Any]:
    """TRL's SFTTrainer on as many tokens in the same layout, beside ours."""
    folder, method, settings = setting(context, model, name)
    asked = {
        "model": str(folder),
        "method": {**METHODS[name], **method},
        "settings": settings,
        "device": context.device,
    }
    file = context.scratch / "trl.json"
    file.write_text(json.dumps(asked))
    code, told = child("stages.trl_peer", str(file))
    if code:
        raise Wrong(f"TRL's trainer ended with {code}: {last_line(told)[:200]}")
    theirs = json.loads(last_line(told))
    ours = training_of(context, folder, method, settings, f"{model}-{name}-beside-trl")
    ours.run()  # again, so that both are timed in the same minute
    here = speed(ours, context)["tokens_per_second"]
    ratio = here / theirs["tokens_per_second"]
    line = f"TRL {theirs['tokens_per_second']:,.0f} tok/s, ours {here:,.0f}: {ratio:.2f} times"
    return {**theirs, "ours": here, "ratio": ratio, "said": line}
