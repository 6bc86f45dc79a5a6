"""Short trainings of a probe, as they were measured."""

from __future__ import annotations

from ft_dagster.planning.trials import TriedArm


def tried(
    method: str, rate: float, loss: float | None, *, rise: float | None = 0.0, on: int = 32
) -> TriedArm:
    validation = {} if loss is None else {"8": loss + 1, str(on): loss}
    return TriedArm(method, rate, 20, validation, rise, 1e12, "diverged" if loss is None else None)
