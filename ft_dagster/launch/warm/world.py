"""What a fork cannot change afterwards: a launcher is served by a server of its own world, or by none."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import ft_dagster

PROTOCOL = 1
# Read by Python, the dynamic linker or a library while it is loaded: these names, and those that begin so.
NAMES = """
    CI CONDA_PREFIX FORCE_COLOR HOME LANG LANGUAGE LOGNAME NO_COLOR PATH TEMP TMP TMPDIR TZ USER VIRTUAL_ENV
    XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME
"""
PREFIXES = """
    ACCELERATE_ ARROW_ ATEN_ BITSANDBYTES_ BLIS_ BNB_ CUBLAS_ CUDA_ CUDNN_ DATASETS_ DEEPSPEED_ DNNL_ DS_
    FSSPEC_ GLIBC_ GLOO_ GOMP_ GOTO_ HF_ HIP_ HSA_ HUGGINGFACE_ JE_ JOBLIB_ KINETO_ KMP_ LC_ LD_ LM_ LMEVAL_
    MALLOC_ MIMALLOC_ MKL_ MPL NCCL_ NPY_ NUMBA_ NUMEXPR_ NUMPY_ NVIDIA_ OMP_ ONEDNN_ OPENBLAS_ PANDAS_ PEFT_
    PYTHON PYTORCH_ RAYON_ ROCR_ SAFETENSORS_ SCIPY_ SKLEARN_ SSL_ TOKENIZERS_ TORCH TQDM_ TRANSFORMERS_
    TRITON_ TRL_ USE_ VECLIB_
"""
SECRET = ("TOKEN", "KEY", "SECRET", "PASSW", "CREDENTIAL", "AUTH")
# Set by call after the fork, or read no earlier than by the program, or given to the server below.
CHANGEABLE = """
    CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_ORDER CUDA_VISIBLE_DEVICES GOTO_NUM_THREADS
    HF_DATASETS_DISABLE_PROGRESS_BARS HF_DATASETS_OFFLINE HF_HUB_DISABLE_TELEMETRY HF_HUB_OFFLINE
    OMP_NUM_THREADS OPENBLAS_NUM_THREADS PYTORCH_NVML_BASED_CUDA_CHECK TOKENIZERS_PARALLELISM
    TORCHINDUCTOR_CACHE_DIR TQDM_DISABLE
"""
# Written by libraries into the environment of whoever imports them, the server among them: a launcher that
# has imported some asks the same server as one that has not.
WRITTEN = {
    "DATASETS_VERBOSITY": "error",
    "DS_ACCELERATOR": "cpu",
    "HF_XET_HIGH_PERFORMANCE": "1",
    "KMP_DUPLICATE_LIB_OK": "True",
    "KMP_INIT_AT_FORK": "FALSE",
}
# What every program sets before it imports these libraries; one that needs the network starts over.
GIVEN = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
_STATUS = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a library reads while it is loaded; no secret is in it."""
    names, beginnings = set(NAMES.split()), tuple(PREFIXES.split())
    found = {name for name in environment if name in names or name.startswith(beginnings)}
    if environment.get("MKL_NUM_THREADS") == environment.get("OMP_NUM_THREADS"):
        found.discard("MKL_NUM_THREADS")  # as a lease gives both; MKL follows what OpenMP has by call
    return {
        name: environment[name]
        for name in sorted(found.difference(CHANGEABLE.split()))
        if environment[name] != WRITTEN.get(name)
        and not any(word in name.removeprefix("TOKENIZERS_") for word in SECRET)
    }


def identity(environment: Mapping[str, str], imports: tuple[str, ...]) -> str:
    """Of the server that can serve this process: 24 hexadecimal digits.

    Raises OSError where the kernel does not tell enough.
    """
    python = os.stat(sys.executable)
    parts = [
        PROTOCOL,
        sys.version,
        sys.prefix,
        sys.executable,
        [python.st_ino, python.st_mtime_ns],
        str(Path(ft_dagster.__file__).parent),
        [Path(sysconfig.get_path(name)).stat().st_mtime_ns for name in ("purelib", "platlib")],
        imports,
        kept(environment),
        _process(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def has_gpu() -> bool:
    """Whether this host has one, found without asking any driver."""
    devices = Path("/dev")
    return any(devices.glob("nvidia[0-9]*")) or any(
        (devices / name).exists() for name in ("nvidiactl", "nvidia-uvm", "kfd", "dxg")
    )


def _process() -> list[object]:
    """Rights, limits of its group, namespaces and place in the scheduler of this process."""
    own = Path("/proc/self")
    status = (line.partition(":") for line in (own / "status").read_text().splitlines())
    rights = {name: value.strip() for name, _, value in status if name in _STATUS}
    spaces = {name: os.readlink(own / "ns" / name) for name in sorted(os.listdir(own / "ns"))}
    label = ""
    with suppress(OSError):  # no security module
        label = (own / "attr/current").read_text()
    return [
        rights,
        spaces,
        label,
        os.readlink(own / "root"),
        (own / "cgroup").read_text(),
        (own / "oom_score_adj").read_text(),
        os.sched_getscheduler(0),
        os.getpriority(os.PRIO_PROCESS, 0),
    ]
