"""Chooses how many GPUs of this host judge a model: what a judgement's lease asks for, and what the plan
says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import USABLE_SHARE, Dtype
from ft_dagster.evaluation.request import EvaluationRequest, SampledRequest
from ft_dagster.export.request import ExportRequest
from ft_dagster.launch.inventory import Device
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.methods import METHODS
from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.model_files.weights import measure_weights, weight_files
from ft_dagster.models.quantize import quantization_of
from ft_dagster.planning.context import base_facts_of
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.judging import JudgedBytes, JudgedOn, Judges, asked, certified, foresee


def judges_of(leases: Leases, ask: Ask, dtype: Dtype) -> Judges | None:
    """Return the GPUs that may judge, by what a declaration asks for; None on a host without any. Raises
    UserError for a kind or a memory that none has.
    """
    if leases.inventory.kind != "gpu":
        return None
    devices = tuple(leases.candidates(replace(ask, count=1, nodes=1)))
    shares = leases.inventory.shares if ask.shared else 1
    return Judges(devices, min(len(devices), leases.most(ask.tenant)), shares, dtype)


def judges_among(hardware: Hardware) -> Judges | None:
    """Return the GPUs that may judge among those that are named, and not this host's."""
    if hardware.kind != "gpu":
        return None
    named = (Device(str(number), hardware.memory_bytes, hardware.name) for number in range(hardware.count))
    return Judges(tuple(named), hardware.count, 1, "bfloat16" if hardware.bf16 else "float32")


def ask_to_judge(ask: Ask, request: BaseModel, judges: Judges, declared_in: Path) -> Ask:
    """Ask for as many GPUs as hold what a program is to judge, each with the memory for its part. Raises
    UserError where not even all hold it.
    """
    held = _held_by(request)
    if held is None:
        return ask
    found = foresee("export" if isinstance(request, ExportRequest) else "evaluation", held, judges)
    if found is None:
        return ask
    refuse_unheld([found], declared_in)
    each = max(ask.memory_bytes, math.ceil(found.each_bytes / USABLE_SHARE))  # as it was foreseen
    return replace(ask, count=found.devices or ask.count, memory_bytes=each)


def refuse_unheld(foreseen: Iterable[JudgedOn], declared_in: Path) -> None:
    """Raises UserError for a model that cannot be judged, or not exported, on this host."""
    for each in foreseen:
        if each.devices is None:
            raise UserError(
                each.sentence,
                file=declared_in,
                field="base_model",
                value=f"{each.weights_bytes / 1e9:,.1f} GB",
                fix="Declare a smaller base, or have more or larger GPUs lent (host.gpus, host.quota in "
                "ft_dagster.yaml; resources.gpu_kind and gpu_memory_gb leave some out)",
            )


def _held_by(request: BaseModel) -> JudgedBytes | None:
    """Return what a program's model takes; None for one that judges none, or not on a GPU."""
    if getattr(request, "device", None) == "cpu":
        return None
    if isinstance(request, SampledRequest):
        return asked(_facts(request.base.folder), request.dtype)
    if isinstance(request, EvaluationRequest):
        base, tuned = request.model.base.folder, request.model.tuned
        return asked(_facts(base), request.dtype, _method(tuned.folder) if tuned else "")
    if isinstance(request, ExportRequest):
        merged = request.format == "merged"
        return certified(_facts(request.base.folder), _method(request.weights), merged=merged)
    return None


def _facts(folder: Path) -> BaseFacts:
    parameters, nbytes, _ = measure_weights(folder, weight_files(folder))
    return base_facts_of(parameters, nbytes, folder)


def _method(weights: Path) -> str:
    kind = quantization_of(weights)
    return next((name for name, known in METHODS.items() if known.quantization == kind), "") if kind else ""
