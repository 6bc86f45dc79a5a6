"""A base is loaded straight to the GPU that its rank trains on, and to nowhere else."""

from __future__ import annotations

from types import SimpleNamespace

import accelerate
import pytest
import torch
from transformers.integrations import deepspeed

from ft_dagster.training.methods.base import on_its_device


class Ranks:
    """accelerate's PartialState of a rank whose device is set up."""

    _shared_state = {"set": "up"}  # noqa: RUF012

    def __new__(cls) -> SimpleNamespace:  # type: ignore[misc]
        return SimpleNamespace(device=cls.device)

    device = torch.device("cuda", 3)


@pytest.fixture
def a_rank(monkeypatch: pytest.MonkeyPatch) -> type[Ranks]:
    monkeypatch.setattr(accelerate, "PartialState", Ranks)
    monkeypatch.setattr(Ranks, "device", torch.device("cuda", 3))
    return Ranks


@pytest.mark.usefixtures("a_rank")
def test_a_rank_loads_to_the_gpu_that_it_trains_on() -> None:
    assert on_its_device() == {"device_map": {"": 3}}


def test_one_process_has_the_first_gpu(a_rank: type[Ranks], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a_rank, "device", torch.device("cuda"))
    assert on_its_device() == {"device_map": {"": 0}}


def test_a_training_on_the_cpu_of_a_host_with_gpus_loads_there(
    a_rank: type[Ranks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(a_rank, "device", torch.device("cpu"))
    assert on_its_device() == {}


@pytest.mark.usefixtures("a_rank")
def test_zero_3_places_the_weights_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed, "is_deepspeed_zero3_enabled", lambda: True)
    assert on_its_device() == {}
