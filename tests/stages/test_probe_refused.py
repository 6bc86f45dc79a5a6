"""What no arm of a probe could do is refused before any is tried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.spec import VariantSpec
from ft_dagster.stages import probe


@pytest.mark.parametrize("stages", [(3,), (0, 3)])
def test_a_limit_that_no_arm_could_act_on_is_refused_before_any_is_tried(
    monkeypatch: pytest.MonkeyPatch, stages: tuple[int, ...]
) -> None:
    planned = {
        str(stage): SimpleNamespace(
            resolved=SimpleNamespace(training=SimpleNamespace(deepspeed=SimpleNamespace(stage=stage)))
        )
        for stage in stages
    }
    arms = [SimpleNamespace(method=method) for method in planned]
    watch = {"benchmark_limit": 0.1, "questions": 4}
    content = {
        "description": "d",
        "owners": ["o"],
        "base_model": "b",
        "data": {"sources": ["s"]},
        "plan": {"probe": "on"},
        "training": {"watch": watch},
        "evaluation": {"general": ["sciq"]},
    }
    stood_for = {
        "counts_of": None, "facts_of": None, "survey": SimpleNamespace(planned=planned),
        "plan_probe": SimpleNamespace(arms=arms, why="to find a rate"),
    }  # fmt: skip
    for name, made in stood_for.items():
        monkeypatch.setattr(probe, name, lambda *_, made=made, **__: made)

    def tries(*_: Any) -> None:
        raise InterruptedError

    monkeypatch.setattr(probe, "_Trial", tries)
    inputs: Any = SimpleNamespace(
        whole=VariantSpec.model_validate(content), training_mixture=None, leak=None,
        base_model=SimpleNamespace(figures={"parameters": 1, "weights_bytes": 1}),
        context=SimpleNamespace(hardware=None), cost_limit=None,
    )  # fmt: skip
    context: Any = SimpleNamespace(base_folder=lambda base: None, declared_in=None, say=lambda line: None)
    attempt: Any = None
    with pytest.raises(UserError if min(stages) == 3 else InterruptedError):
        probe._result(inputs, context, attempt, [])
