"""What the server imports before it serves, and whether it may fork after that.

None of this project's own modules is among them: programs read those from disk as they are.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from pathlib import Path

from ft_dagster.launch.warm.world import has_gpu

LIBRARIES = (
    "numpy",
    "pydantic.main",
    "yaml",
    "psutil",
    "threadpoolctl",
    "dagster_pipes",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "pandas",
    "scipy.stats",
    "sklearn.metrics",
    "torch",
    "torch.utils.flop_counter",
    "torch.utils.data.distributed",
    "safetensors.torch",
    "transformers",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llama.configuration_llama",
    "datasets",
)
# PEFT imports bitsandbytes and accelerate may import deepspeed, and both ask the driver for its devices.
WITHOUT_GPU = (
    *LIBRARIES,
    "deepspeed",
    "accelerate",
    "peft",
    "transformers.trainer",
    "trl.trainer.sft_trainer",
    "lm_eval.tasks",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
)
FORBIDDEN_WITH_GPU = ("bitsandbytes", "deepspeed")


class CannotServe(Exception):
    """Why no program may be forked from this process."""


def chosen(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """What a server on this host imports."""
    if asked is not None:
        return asked
    return LIBRARIES if has_gpu() else WITHOUT_GPU


def environment_for_imports(given: dict[str, str]) -> dict[str, str]:
    """What this host's kind adds to the environment of a server."""
    jemalloc = [given["JE_ARROW_MALLOC_CONF"]] if given.get("JE_ARROW_MALLOC_CONF") else []
    added = {
        "JE_ARROW_MALLOC_CONF": ",".join([*jemalloc, "background_thread:false"])
    }  # pyarrow's only thread
    if not has_gpu():
        added["DS_ACCELERATOR"] = given.get("DS_ACCELERATOR", "cpu")  # as the trainer does for a CPU
    return added


def import_all(names: tuple[str, ...], own: tuple[int, ...]) -> None:
    """Import them; one that is not installed is left to the program that needs it. Raises CannotServe.

    `own`: the descriptors that the server itself has open.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with warnings.catch_warnings(record=True):
        for name in names:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                continue
            except Exception as error:
                raise CannotServe(f"{name} cannot be imported: {error}") from error
        _fill_tables()
    require_forkable()
    if kept := {link for number, link in open_files().items() if number > 2 and number not in own}:
        raise CannotServe(f"a library keeps files open: {', '.join(sorted(kept))}")


def _fill_tables() -> None:
    """What a library makes when the first model is loaded, whichever that is: transformers' table of names
    that weights had in older files, whose thousand patterns each program would compile.
    """
    names = sys.modules.get("transformers.conversion_mapping")
    fill = getattr(names, "get_checkpoint_conversion_mapping", None)  # of releases that have it
    if fill is not None:
        fill("llama")


def require_forkable() -> None:
    """Raise CannotServe where a fork of this process would not be like a fresh one."""
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        raise CannotServe(f"a library started threads: {', '.join(map(_thread_name, threads))}")
    links = open_files()
    if devices := [
        link for link in links.values() if link.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri"))
    ]:
        raise CannotServe(f"a library opened a device: {devices[0]}")
    if has_gpu() and (found := [name for name in FORBIDDEN_WITH_GPU if name in sys.modules]):
        raise CannotServe(f"{found[0]} was imported on a host with a GPU")


def loaded_files() -> dict[str, tuple[int, int]]:
    """(mtime, size) of every file that a module of this process was read from."""
    found: dict[str, tuple[int, int]] = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            found[file] = stamp(file)
    return found


def changed(files: dict[str, tuple[int, int]]) -> str | None:
    """One of these files that is not what it was, or None."""
    return next((file for file, known in files.items() if stamp(file) != known), None)


def stamp(file: str) -> tuple[int, int]:
    """(mtime in ns, size); zeros where there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def open_files() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def _thread_name(thread: str) -> str:
    return Path(f"/proc/self/task/{thread}/comm").read_text().strip()
