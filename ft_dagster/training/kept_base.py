"""A base in nf4 kept by content on this host, for the next training on it: on a CPU to quantize 135M weights
takes 3 s, and to load what came of it 0.3 s with its check (benchmarks/notes/shared-base.md).

Kept under all that its bits depend on, so that no result tells whether it was kept. Judging and export
quantize their own: a verdict rests on the files of the base. On a GPU nothing is kept: nobody measured it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.program import write_json
from ft_dagster.provenance.digest import hash_folder, sha256_json
from ft_dagster.strict_json import loads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEPT_BASES = "quantized"  # in the host's cache
SEAL = "kept.json"
DRAFT = ".draft-"
HOW = 1  # raised where it is quantized otherwise


def base_kept_or_made(
    folder: Path | None,
    asked: Mapping[str, Any],
    make: Callable[[], PreTrainedModel],
    load: Callable[[Path], PreTrainedModel],
) -> PreTrainedModel:
    """What `load` gives of the model that is kept as `asked`, else what `make` gives, which is kept then.
    `folder` None: nothing is kept. Raises what `make` raises.
    """
    place = None if folder is None else folder / sha256_json(asked)
    if place is not None and _whole(place, asked):
        with suppress(OSError, UserError):  # it may go while it is read
            model = load(place)
            with suppress(OSError):
                os.utime(place / SEAL)  # `kept_bases` tells when it was taken last
            return model
    model = make()
    if place is not None:
        _keep(model, place, asked)
    return model


def identity_of(digest: str, precision: str) -> dict[str, object]:
    """All that the bits of a base in nf4 depend on; `digest`: of the base."""
    import torch

    return {
        "how": HOW,
        "base": digest,
        "quantization": "nf4",
        "precision": precision,
        "device": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),  # in which means of its constants are added up
        "libraries": [version(name) for name in ("torch", "transformers", "bitsandbytes")],
    }


class KeptBase(NamedTuple):
    """`used`: when a training last made or took it, seconds since 1970."""

    folder: Path
    bytes: int
    used: float


def kept_bases(folder: Path) -> list[KeptBase]:
    """All of a folder, damaged ones and drafts among them; none of one that this user cannot read."""
    found, folders = [], list[Path]()
    with suppress(OSError):
        folders = [each for each in folder.iterdir() if each.is_dir() and not each.is_symlink()]
    for each in folders:
        with suppress(OSError):
            size = sum(file.lstat().st_size for file in each.iterdir())
            found.append(KeptBase(each, size, _used(each)))
    return found


def forget(kept: KeptBase) -> bool:
    """Whether it went; not where a training took it since it was listed. Who reads it meanwhile has it."""
    try:
        if _used(kept.folder) != kept.used:
            return False
        _remove(kept.folder)
    except OSError:
        return False
    return True


def _used(folder: Path) -> float:
    seal = folder / SEAL
    return (seal if seal.exists() else folder).lstat().st_mtime


def _whole(place: Path, asked: Mapping[str, Any]) -> bool:
    """Whether what lies there is what was kept, to the last bit."""
    try:
        content = loads((place / SEAL).read_text("utf-8"))
        return bool(content == _sealed(place, asked))
    except (OSError, ValueError, UserError):
        return False


def _sealed(folder: Path, asked: Mapping[str, Any]) -> dict[str, object]:
    files = [list(file) for file in hash_folder(folder) if file.path != SEAL]
    return {"asked": dict(asked), "files": files}


def _keep(model: PreTrainedModel, place: Path, asked: Mapping[str, Any]) -> None:
    """Whole or not at all; where it cannot be kept, it is made again next time. Of two makers the first one's
    stays.
    """
    draft = place.with_name(f"{DRAFT}{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        if shutil.disk_usage(draft).free > 2 * size:  # a training needs room for more than this
            model.save_pretrained(draft)
            write_json(draft / SEAL, _sealed(draft, asked))
            if place.exists() and not _whole(place, asked):
                _remove(place)
            with suppress(OSError):  # another maker's is there
                draft.rename(place)
    except Exception as error:  # what safetensors raises where a disk is full is an error of its own
        print(f"the quantized base is not kept: {type(error).__name__}: {error}", flush=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Out of the way at once, so that nobody finds half of it. Raises OSError."""
    away = folder.with_name(f"{DRAFT}{uuid.uuid4().hex}")
    folder.rename(away)
    shutil.rmtree(away, ignore_errors=True)
