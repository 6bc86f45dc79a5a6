"""Make a fork of the server what a Python just started by the launcher would be."""

from __future__ import annotations

import gc
import importlib
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
_THREADS = {"blas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"), "openmp": ()}


@dataclass(frozen=True)
class Surroundings:
    """What a child has of its parent, and a fork of the server has to be given.

    `limits`: by name (soft, hard); `cores`: it may be scheduled on.
    """

    environment: dict[str, str]
    umask: int
    limits: dict[str, tuple[int, int]]
    cores: tuple[int, ...]

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Surroundings:
        limits = {name: (int(soft), int(hard)) for name, (soft, hard) in content["limits"].items()}
        return Surroundings(
            dict(content["environment"]), int(content["umask"]), limits, tuple(content["cores"])
        )


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    """Of this process, with another environment. Raises OSError, ValueError."""
    status = Path("/proc/self/status").read_text()  # to ask with umask() would set it, for all threads
    umask = next(line.split()[1] for line in status.splitlines() if line.startswith("Umask:"))
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS}
    return Surroundings(dict(environment), int(umask, 8), limits, tuple(sorted(os.sched_getaffinity(0))))


def take(given: Surroundings, folder: int) -> None:
    """Have these, and work in the open `folder`. Raises OSError, ValueError: they cannot be had."""
    os.sched_setaffinity(0, given.cores)
    for name, (soft, hard) in given.limits.items():
        if resource.getrlimit(getattr(resource, name)) != (soft, hard):
            resource.setrlimit(getattr(resource, name), (soft, hard))
    os.umask(given.umask)
    os.fchdir(folder)
    os.environ.clear()
    os.environ.update(given.environment)
    tempfile.tempdir = None


def default_signals() -> None:
    """The dispositions of a Python that nobody had ignore anything; none is blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not None:  # one that C code handles stays
            signal.signal(number, signal.SIG_DFL)
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def nothing_shared() -> None:
    """Nothing that two programs should not share comes from the server: randomness, keys, a folder."""
    random.seed()
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed()
    for name in ("multiprocessing.process", "multiprocess.process"):
        module: Any = sys.modules.get(name)
        if module is not None:
            module.current_process().authkey = os.urandom(32)
            module.ORIGINAL_DIR = os.path.abspath(os.curdir)


def start_anew() -> None:
    """What else an interpreter has that was just started."""
    importlib.invalidate_caches()
    nothing_shared()
    gc.enable()


def threads_of(environment: Mapping[str, str], api: str) -> int:
    """How many threads a library of that kind takes where it is loaded under `environment`.

    Raises ValueError where that is not one number.
    """
    for name in (*_THREADS[api], "OMP_NUM_THREADS"):
        if environment.get(name):
            number = int(environment[name])
            if number < 1:
                raise ValueError(f"{name}={number}")
            return number
    return len(os.sched_getaffinity(0))


def set_threads(environment: Mapping[str, str]) -> None:
    """By call, since the libraries are loaded: as many as `environment` says. Starts none.

    Raises ValueError.
    """
    if "threadpoolctl" not in sys.modules:
        return
    from threadpoolctl import ThreadpoolController

    for library in ThreadpoolController().lib_controllers:
        if library.user_api in _THREADS:
            library.set_num_threads(threads_of(environment, library.user_api))
    if "torch" in sys.modules:
        _as_torch_starts(environment)


def _as_torch_starts(environment: Mapping[str, str]) -> None:
    """torch takes MKL's count, which is capped at the cores, for OpenMP too, when it first needs threads."""
    import ctypes

    import torch

    if not torch.backends.mkl.is_available():
        return
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    number = min(threads_of(environment, "openmp"), int(library.MKL_Get_Max_Threads()))
    from threadpoolctl import ThreadpoolController

    for openmp in ThreadpoolController().select(user_api="openmp").lib_controllers:
        openmp.set_num_threads(number)
