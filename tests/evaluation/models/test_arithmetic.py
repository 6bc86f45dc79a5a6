"""In which arithmetic models are asked."""

import sys
from types import SimpleNamespace

import pytest

from ft_dagster.evaluation.models.arithmetic import judging_dtype

KNOWN = {"T4": (7, 5), "A100": (8, 0), "H100": (9, 0)}


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("avx avx2 fma", "float32"), ("avx512f avx512_bf16", "bfloat16"), ("amx_bf16 amx_tile", "bfloat16")],
)
def test_a_cpu_that_would_emulate_bfloat16_computes_in_float32(flags: str, dtype: str) -> None:
    assert judging_dtype("cpu", flags) == dtype


@pytest.mark.parametrize(
    ("gpus", "dtype"), [(["A100", "H100"], "bfloat16"), (["H100", "T4"], "float32"), (["T4"], "float32")]
)
def test_gpus_are_asked_by_their_driver_and_not_by_torch(
    gpus: list[str], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch would open a context. This driver is pretended: no GPU is at hand."""
    driver = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=gpus.__getitem__,
        nvmlDeviceGetCudaComputeCapability=KNOWN.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: pytest.fail("it asked torch"))
    assert judging_dtype("cuda") == dtype
