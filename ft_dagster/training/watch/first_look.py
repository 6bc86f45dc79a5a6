"""Keeps what a look at a base gave, by content on this host, for the next training that starts from it.

An adapter whose update is zero, or a model not yet trained, computes what its base computes, to the bit: a
soft prompt does not. Kept under all that the bits depend on, so that no result tells whether it was kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.methods.lora import AT_ZERO, LoraSettings
from ft_dagster.methods.prompt_tuning import PromptSettings
from ft_dagster.methods.qlora import QloraSettings
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.program import write_json
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.stage_entries import FINE_TUNED_MODEL, version_of
from ft_dagster.strict_json import loads
from ft_dagster.training import ranks
from ft_dagster.training.contract import Member, TrainingRun

FIRST_LOOKS = "first_looks"  # in the host's cache
HOW = 3  # raised where a look computes otherwise: 3 by the shapes of its micro-batches


class FirstLooks:
    """Keeps values by what was measured, one file each; a damaged one counts for nothing. `folder` None:
    none.
    """

    def __init__(self, folder: Path | None, base: Mapping[str, Any]) -> None:
        """Keep values in `folder`. `base`: see `identity_of`."""
        self._folder, self._base = folder, dict(base)

    def read(self, what: Mapping[str, Any]) -> Any:
        """Return the value, or None."""
        if self._folder is None:
            return None
        asked = {"base": self._base, **what}
        try:
            file = _file(self._folder, asked)
            content = loads(file.read_text("utf-8"))
            whole = content["sha256"] == _seal(asked, content["value"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not whole:
            return None
        with suppress(OSError):
            os.utime(file)  # `kept_looks` tells when it was taken last
        return content["value"]

    def write(self, what: Mapping[str, Any], value: Any) -> None:
        """Keep a value; where that cannot be, it is measured again next time."""
        if self._folder is None:
            return
        asked = {"base": self._base, **what}
        try:
            content = {"asked": asked, "value": value, "sha256": _seal(asked, value)}
            write_json(_file(self._folder, asked), content)
        except (OSError, ValueError):  # no room or no right to write; a value that is not finite
            return


def first_looks(run: TrainingRun, member: Member, chat: Mapping[str, Any] | None = None) -> FirstLooks:
    """Return the first looks at the base of this training; none where its first look is not its base's.
    `chat`: see `data.rendering.chat_rules`.
    """
    method = member.plan.method
    if isinstance(method, PromptSettings):
        return FirstLooks(None, {})
    if isinstance(method, LoraSettings) and method.init_lora_weights not in AT_ZERO:
        return FirstLooks(None, {})  # it begins at the base but for rounding
    return FirstLooks(run.first_looks, {**identity_of(run, member), **({"chat": chat} if chat else {})})


def identity_of(run: TrainingRun, member: Member) -> dict[str, object]:
    """Return all that the bits of a first look depend on, beside what is looked at and in which
    micro-batches.
    """
    import peft
    import torch
    import transformers

    method, settings, base = member.plan.method, member.plan.training, run.base
    device = member.plan.device.kind
    return {
        "version": version_of(FINE_TUNED_MODEL.name),
        "how": HOW,
        "base": base.digest,
        "parent": base.parent and base.parent.digest,
        "new_token_ids": list(base.new_token_ids),
        "method": method.name,
        "dora": isinstance(method, LoraSettings) and method.use_dora,
        **_activations(method),
        "own_loss": member.plan.own_loss,
        "precision": settings.precision,
        **({} if settings.deterministic else {"deterministic": False}),
        "zero_stage": settings.deepspeed.stage,
        "ranks": ranks.world(),
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "libraries": [torch.__version__, transformers.__version__, peft.__version__, version("lm_eval")],
    }


def _activations(method: MethodSettings) -> dict[str, str]:
    """Return the type of activations where a plan says it; nothing of older plans, whose looks were kept
    without.
    """
    of_lora = isinstance(method, QloraSettings) and method.activations
    return {"activations": of_lora} if of_lora else {}


class KeptLook(NamedTuple):
    """Describes a kept look. `used`: when a training last made or took it, seconds since 1970."""

    file: Path
    bytes: int
    used: float


def kept_looks(folder: Path) -> list[KeptLook]:
    """Return all looks of a folder, damaged ones and drafts among them; none of one that this user cannot
    read.
    """
    found, files = [], list[Path]()
    with suppress(OSError):
        files = list(folder.iterdir())
    for file in files:
        with suppress(FileNotFoundError):
            status = file.lstat()
            found.append(KeptLook(file, status.st_size, status.st_mtime))
    return found


def forget(look: KeptLook) -> bool:
    """Remove a look and say whether it went; not where a training took it since it was listed."""
    try:
        if look.file.lstat().st_mtime != look.used:
            return False
        look.file.unlink()
    except OSError:
        return False
    return True


def _file(folder: Path, asked: Mapping[str, Any]) -> Path:
    return folder / f"{sha256_json(asked)}.json"


def _seal(asked: Mapping[str, Any], value: Any) -> str:
    return sha256_json({"asked": asked, "value": value})
