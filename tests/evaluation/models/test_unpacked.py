"""A 4-bit base unpacked once answers as bitsandbytes' own layers to the bit; without room it stays packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor

from ft_dagster.evaluation.models.greedy import rows_of, write
from ft_dagster.evaluation.models.load import load_base, load_tuned, put_adapter
from ft_dagster.evaluation.models.memory_budget import room
from ft_dagster.evaluation.models.unpacked import Unpacked, UnpackedLora, plain_lora, unpack
from tests.evaluation.payloads import make_payload

pytestmark = pytest.mark.slow
TEXTS = [[11, 12, 13, 14, 15, 16, 100], [40, 43, 46], [7, 7, 9, 31, 200]]


@pytest.fixture(scope="module")
def payload(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_payload("nf4", tiny_model_folder, tmp_path_factory.mktemp("nf4"))


def packed(base: Path, payload: Path, dtype: str) -> Any:
    return put_adapter(load_base(base, dtype=dtype, quantization="nf4"), payload)


def count(model: Any, kind: type) -> int:
    return sum(type(layer) is kind for layer in model.modules())


def seen(model: Any) -> list[Tensor]:
    """The logits of a text as a whole, and of prompts and of each token written after them."""
    with torch.inference_mode():
        whole = model(input_ids=torch.tensor(TEXTS[:1]), use_cache=False).logits
        answers = write(model, rows_of(TEXTS, new_tokens=6, ends=set()), logits=4)
    return [whole, *(each.read for each in answers), *(step for a in answers for step in a.chosen_from)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("biased", [False, True])
def test_it_answers_as_the_packed_base_to_the_bit(
    tiny_model_folder: Path, payload: Path, dtype: str, biased: bool
) -> None:
    model = packed(tiny_model_folder, payload, dtype)
    layers = [layer for layer in model.modules() if type(layer) is Linear4bit]
    for layer in layers if biased else []:
        layer.bias = torch.nn.Parameter(torch.linspace(-1, 1, layer.out_features))
    theirs = seen(model)
    with model.disable_adapter():
        base = seen(model)
    assert unpack(model, 2**40)
    assert count(model, Unpacked) == len(layers) > 0 == count(model, Linear4bit)
    assert all(map(torch.equal, seen(model), theirs))
    plain_lora(model)
    assert count(model, UnpackedLora) == len(layers)
    assert all(map(torch.equal, seen(model), theirs))
    with model.disable_adapter():
        assert all(map(torch.equal, seen(model), base))
    assert not torch.equal(theirs[0], base[0])


def test_it_stays_packed_where_its_numbers_would_take_more_than_its_room(
    tiny_model_folder: Path, payload: Path
) -> None:
    model = packed(tiny_model_folder, payload, "bfloat16")
    layers = count(model, Linear4bit)
    taken = sum(2 * m.in_features * m.out_features for m in model.modules() if type(m) is Linear4bit)
    assert not unpack(model, taken - 1)
    assert count(model, Linear4bit) == layers
    assert unpack(model, taken)
    assert count(model, Linear4bit) == 0


@pytest.mark.parametrize(
    ("threads", "cores", "share"), [(1, 2, 1 / 4), (2, 2, 1 / 2), (8, 2, 1 / 2), (1, 16, 1 / 32)]
)
def test_programs_that_share_the_cores_leave_each_other_room(
    threads: int, cores: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert room(1024, cores) == 1024 * share


def test_a_trained_model_is_loaded_so(
    tiny_model_folder: Path, payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_tuned(tiny_model_folder, payload, dtype="bfloat16")
    assert count(model, Linear4bit) == 0 < count(model, UnpackedLora)
    monkeypatch.setattr("ft_dagster.evaluation.models.memory_budget.free_memory", lambda: 1000)
    model = load_tuned(tiny_model_folder, payload, dtype="bfloat16")
    assert count(model, Linear4bit) > 0 == count(model, Unpacked) == count(model, UnpackedLora)
