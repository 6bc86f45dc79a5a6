"""In which arithmetic models are asked."""

import pytest

from ft_dagster.evaluation.arithmetic import judging_dtype


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("avx avx2 fma", "float32"), ("avx512f avx512_bf16", "bfloat16"), ("amx_bf16 amx_tile", "bfloat16")],
)
def test_a_cpu_that_would_emulate_bfloat16_computes_in_float32(flags: str, dtype: str) -> None:
    assert judging_dtype("cpu", flags) == dtype
