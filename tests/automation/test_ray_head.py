"""What a Ray head answers, and what stands in front of it, told apart."""

from __future__ import annotations

import pytest

from ft_dagster.automation.ray.head import Unknown, answered
from ft_dagster.errors import UserError


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("404: Job it does not exist", Unknown),
        ("404: page not found", ConnectionError),  # of a proxy in front of the head
        ("500: for a reason", ConnectionError),
        ("503: for a reason", ConnectionError),
        ("400: for a reason", UserError),
    ],
)
def test_answers_of_a_head_are_told_apart(said: str, kind: type[Exception]) -> None:
    def refuse() -> None:
        raise RuntimeError(f"Request failed with status code {said}")

    with pytest.raises(kind):
        answered(refuse)
    assert answered(lambda: "an answer") == "an answer"
