"""What is said beside a plan of the version before."""

from __future__ import annotations

from ft_dagster.stages.plan_warnings import rank_of_before
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.training.watch.spectrum import Layer, advice, summary
from tests.stored_figures import stored_training

COLLAPSED = [Layer("q", 16, (1.0, *([1e-6] * 15)))]
ALIKE = [Layer("q", 16, (1.0,) * 16)]


def test_the_spectrum_of_the_version_before_is_said_of_the_next_plan_of_its_method() -> None:
    for layers, rank in ((COLLAPSED, 1), (ALIKE, 32)):
        said = advice(summary(layers))
        before = TrainingFigures.from_json(
            stored_training(method="lora", advice=["overfitting: less", *said])
        )
        (line,) = rank_of_before(before, "lora")
        assert line.startswith("of the version before: ")
        assert line.endswith((f"try rank {rank}", f"try {rank}"))
        assert rank_of_before(before, "full") == []
