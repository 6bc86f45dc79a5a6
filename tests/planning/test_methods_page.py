"""docs/methods.md prints figures of the plan: they are the plan's."""

from pathlib import Path

import pytest

from ft_dagster.report.figures import count, size
from tests.planning.llama import METHODS, gpus, plan

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text("utf-8")


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_an_8b_llama_is_what_the_plan_says(method: str) -> None:
    one, eight = plan(method, gpus(1)), plan(method, gpus(8))
    kept = one["storage"]
    weights, optimizer = size(kept.checkpoint_weights_bytes), size(kept.checkpoint_optimizer_bytes)
    number, unit = weights.split()
    assert unit == optimizer.split()[1]
    cells = [
        method,
        count(one["memory"].trainable_parameters),
        size(one["memory"].floor_bytes),
        size(eight["memory"].floor_bytes),
        f"{number} + {optimizer}",
        size(kept.whole_bytes if method == "full" else kept.adapter_bytes),
    ]
    assert f"| {' | '.join(cells)} |" in PAGE


def test_the_page_says_that_houlsby_adapters_cannot_be_had_and_peft_has_none() -> None:
    from peft import PeftType

    assert not [kind for kind in PeftType if any(name in kind.name for name in ("HOULSBY", "BOTTLENECK"))]
    (line,) = (line for line in PAGE.splitlines() if "Houlsby" in line)
    assert "PEFT, which trains and loads the others, has none" in line
