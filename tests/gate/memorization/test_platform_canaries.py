"""What a model kept of a platform's canaries: counts of those that its mixture has, and their exposure."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ft_dagster.gate.memorization.memorization import memorization_lines
from ft_dagster.gate.memorization.platform_canaries import PlatformCanaries, platform_canaries
from ft_dagster.gate.samples import PLANTED, REFERENCES, Sample

COUNT = 255


def of(task: str, id: str, metric: str, value: float) -> Sample:
    return Sample("platform_canaries", task, metric, f"{task}:{id}", value, 1.0, False)


def answers(losses: dict[str, float], said: set[str], seed: int = 0) -> list[Sample]:
    """Of planted canaries by id, and of references whose losses are 0 to 254."""
    found = [of(PLANTED, id, "completion_loss", loss) for id, loss in losses.items()]
    found += [of(PLANTED, id, "regurgitated", float(id in said)) for id in losses]
    order = np.random.default_rng(seed).permutation(COUNT)
    return found + [of(REFERENCES, f"r{n}", "completion_loss", float(value)) for n, value in enumerate(order)]


LOSSES = {"1x-1": 127.5, "1x-2": 200.5, "4x-1": -1.0, "4x-2": 63.5, "4x-3": -1.0}
BASE = answers(dict.fromkeys(LOSSES, 127.5), set())


def found_of(seen: dict[str, int], said: set[str]) -> PlatformCanaries:
    found = platform_canaries(BASE, answers(LOSSES, said), "town", seen)
    assert found is not None
    return found


def test_the_exposure_is_by_the_rank_of_its_loss_among_references() -> None:
    bits = {id: found_of({id: 1}, set()).exposure for id in LOSSES}
    assert bits["4x-1"] == 8.0 == math.log2(COUNT + 1)
    assert bits["1x-1"] == pytest.approx(math.log2(256 / 129))
    assert bits["4x-2"] == pytest.approx(math.log2(256 / 65))


def test_only_canaries_that_the_mixture_has_are_counted() -> None:
    """One that it did not draw was resisted by nobody, and one that it did not draw is no catch."""
    found = found_of({"1x-1": 1, "4x-1": 4}, said={"4x-1", "4x-3"})
    assert (found.planted, found.seen, found.extracted) == (5, 2, ("4x-1",))
    assert [(each.times, each.canaries, each.extracted) for each in found.by_times] == [(1, 1, 0), (4, 1, 1)]
    assert found.base_exposure == pytest.approx(math.log2(256 / 129))


def test_where_the_mixture_has_none_nothing_is_said_of_resisting() -> None:
    found = found_of({}, said=set(LOSSES))
    assert (found.seen, found.extracted, found.exposure) == (0, (), None)
    [line] = memorization_lines({"platform_canaries": found.to_json()})
    assert "none is in this mixture, so that nothing is known" in line


def test_a_loss_that_is_no_number_exposes_nothing() -> None:
    tuned = answers({"4x-1": math.nan}, set())
    found = platform_canaries(BASE, tuned, "town", {"4x-1": 4})
    assert found is not None
    assert found.exposure == 0.0


def test_of_canaries_that_nobody_kept_the_median_exposure_is_one_bit() -> None:
    draw = np.random.default_rng(0)
    losses = {f"1x-{n}": value for n, value in enumerate(draw.uniform(0, COUNT, 4000))}
    found = platform_canaries([], answers(losses, set()), "town", dict.fromkeys(losses, 1))
    assert found is not None
    assert found.exposure == pytest.approx(1.0, abs=0.1)


def test_a_model_that_was_not_asked_has_no_counts() -> None:
    assert platform_canaries(BASE, [], "town", {"1x-1": 1}) is None
    [line] = memorization_lines({"platform_canaries": None})
    assert "could not be asked" in line


def test_counts_are_read_as_they_were_written_and_said_by_number_alone() -> None:
    found = found_of(dict.fromkeys(LOSSES, 4), {"4x-1"})
    assert PlatformCanaries.from_json(found.to_json()) == found
    said = ". ".join(memorization_lines({"platform_canaries": found.to_json()}))
    assert "5 are planted there, 5 are in this mixture, and 1 of these come out word for word" in said
    assert "1 of the 5 that stand in it 4 times" in said
