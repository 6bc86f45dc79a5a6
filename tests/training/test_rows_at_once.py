"""A measurement makes whole logits, so fewer rows of it may go at once than of a step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import AutoConfig

from ft_dagster.training.watch.observer import Observer


@pytest.mark.parametrize(
    ("vocabulary", "length", "micro_batch", "expected"),
    [(152_064, 4096, 8, 1), (152_064, 4096, 1, 1), (49_152, 512, 16, 16), (262_144, 32_768, 4, 1)],
)
def test_rows_of_a_measurement_are_bounded_by_the_bytes_of_their_logits(
    vocabulary: int, length: int, micro_batch: int, expected: int
) -> None:
    training = SimpleNamespace(per_device_train_batch_size=micro_batch, max_length=length)
    observer: Any = SimpleNamespace(
        member=SimpleNamespace(plan=SimpleNamespace(training=training)),
        _trainer=SimpleNamespace(
            model=SimpleNamespace(config=AutoConfig.for_model("llama", vocab_size=vocabulary))
        ),
    )
    assert Observer._rows_at_once(cast("Observer", observer)) == expected
