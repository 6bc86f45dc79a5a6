"""Answers written together are those of each prompt alone, and cost no more than they must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.evaluation.models import arithmetic
from ft_dagster.evaluation.models.greedy import (
    PromptRow,
    batches_of,
    last_logits,
    rows_of,
    write,
    write_all,
)
from ft_dagster.evaluation.models.key_values import RoomyLayer
from ft_dagster.evaluation.models.load import load_base, load_tuned
from tests.evaluation.payloads import make_payload, write_greedily

pytestmark = pytest.mark.slow
NEW = 12
PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 40], [5, 6, 7, 8, 60, 61, 62, 63], [5, 6, 7, 100, 101]]
NEVER: set[int] = set()


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> Any:
    return load_base(tiny_model_folder, dtype="float32")


@pytest.fixture
def shapes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """[rows, tokens] of each forward pass."""
    seen: list[tuple[int, int]] = []
    hook = model.model.register_forward_pre_hook(
        lambda _, given, named: seen.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


def alone(model: Any, ends: set[int] = NEVER) -> list[list[int]]:
    """Each answer, token by token from all before it, up to a token of `ends`."""
    found = []
    for prompt in PROMPTS:
        whole = write_greedily(model, prompt, NEW, -1)
        last = next((n for n, token in enumerate(whole, start=1) if token in ends), NEW)
        found.append(whole[:last])
    return found


def written(model: Any, **how: Any) -> list[list[int]]:
    rows = rows_of(PROMPTS, new_tokens=NEW, **{"ends": NEVER, **how})
    return [each.tokens for each in write(model, rows)]


def test_what_all_prompts_begin_with_is_computed_once(model: Any, shapes: list[tuple[int, int]]) -> None:
    assert written(model) == alone(model)
    rows = len(PROMPTS)
    assert shapes[: NEW + 1] == [(1, 3), (rows, 5), *[(rows, 1)] * (NEW - 1)]


def test_an_ended_row_leaves_and_the_others_are_answered_as_alone(
    model: Any, shapes: list[tuple[int, int]]
) -> None:
    ends = {alone(model)[0][1], alone(model)[2][5]}
    expected = alone(model, ends)
    shapes.clear()
    assert written(model, ends=ends) == expected
    assert sum(rows for rows, tokens in shapes if tokens == 1) == sum(len(each) - 1 for each in expected)
    assert {len(each) for each in expected} != {NEW}


def test_few_ended_rows_of_many_wait_for_more(model: Any, shapes: list[tuple[int, int]]) -> None:
    prompts = [[5, n] for n in range(10, 42)]
    whole = [each.tokens for each in write(model, rows_of(prompts, new_tokens=4, ends=NEVER))]
    firsts = [each[0] for each in whole]
    first = min(firsts, key=firsts.count)
    ended = firsts.count(first)
    assert ended * 8 < 32
    shapes.clear()
    made = write(model, rows_of(prompts, new_tokens=4, ends={first}))
    assert all(
        each.tokens == (row[: row.index(first) + 1] if first in row else row)
        for each, row in zip(made, whole, strict=True)
    )
    assert shapes[2][0] == 32


def test_keys_and_values_stay_where_they_are() -> None:
    layer = RoomyLayer(6)
    new = torch.randn(2, 1, 3, 4)
    keys, _ = layer.update(new, new)
    more, values = layer.update(new[:, :, :1], new[:, :, 1:2])
    assert more.data_ptr() == keys.data_ptr()
    assert torch.equal(more, torch.cat([new, new[:, :, :1]], dim=2))
    assert torch.equal(values, torch.cat([new, new[:, :, 1:2]], dim=2))
    layer.batch_select_indices(torch.tensor([1]))
    assert torch.equal(layer.keys, more[1:])
    assert layer.get_seq_length() == 4


def test_an_answer_ends_where_it_is_said_to(model: Any) -> None:
    whole = alone(model)
    made = written(model, stopped=lambda tokens: len(tokens) == 3)
    assert made == [each[:3] for each in whole]


@pytest.mark.parametrize("make", [lambda model: model, lambda _: without_positions()])
def test_each_row_of_a_batch_ends_in_its_own_way(model: Any, make: Callable[[Any], Any]) -> None:
    model = make(model)
    whole = alone(model)
    rows = [
        PromptRow(PROMPTS[0], 2, NEVER),
        PromptRow(PROMPTS[1], NEW, {whole[1][5]}),
        PromptRow(PROMPTS[2], NEW, NEVER, lambda tokens: len(tokens) == 7),
        PromptRow(PROMPTS[3], NEW - 1, NEVER),
    ]
    first = whole[1].index(whole[1][5])
    expected = [whole[0][:2], whole[1][: first + 1], whole[2][:7], whole[3][: NEW - 1]]
    assert [each.tokens for each in write(model, rows)] == expected


def test_batches_have_no_more_tokens_than_asked() -> None:
    rows = [PromptRow([0] * length, 5, NEVER) for length in (10, 90, 12, 100, 1000, 95)]
    assert list(batches_of(rows, 10_000)) == [[4, 3, 5, 1, 2, 0]]
    assert list(batches_of(rows, 3 * 105)) == [[4], [3, 5, 1], [2, 0]]
    assert list(batches_of([], 10)) == []


def test_prompts_of_like_length_are_read_together(
    model: Any, shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(model)
    monkeypatch.setitem(arithmetic.BATCH_TOKENS, "cpu", 6)
    shapes.clear()
    assert written(model) == expected
    assert shapes[:5] == [(1, 3), (1, 5), (3, 2), *[(4, 1)] * 2]


def test_a_pass_over_some_prompts_has_no_room_for_the_answers(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int] = []
    honest = RoomyLayer.__init__

    def noted(layer: RoomyLayer, room: int) -> None:
        rooms.append(room)
        honest(layer, room)

    monkeypatch.setattr(RoomyLayer, "__init__", noted)
    monkeypatch.setitem(arithmetic.BATCH_TOKENS, "cpu", 6)
    written(model)
    longest = max(map(len, PROMPTS))
    # of all, and of either pass: three tokens are shared
    assert set(rooms) == {longest + NEW, longest, 3 + 2}


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_so_are_those_behind_a_learned_prompt(
    kind: str, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = load_tuned(
        tiny_model_folder, make_payload(kind, tiny_model_folder, tmp_path / kind), dtype="float32"
    )
    monkeypatch.setitem(arithmetic.BATCH_TOKENS, "cpu", 6)
    assert written(tuned) == alone(tuned)


def test_logits_are_those_that_were_read_and_chosen_from(model: Any) -> None:
    for answer, prompt in zip(
        write(model, rows_of(PROMPTS, new_tokens=3, ends=NEVER), logits=4), PROMPTS, strict=True
    ):
        assert torch.allclose(answer.read, last_logits(model, prompt, 4), atol=1e-4)
        assert [int(each.argmax()) for each in answer.chosen_from] == answer.tokens
        assert torch.equal(answer.read[-1], answer.chosen_from[0])


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_a_learned_prompt_is_computed_once(
    kind: str, tiny_model_folder: Path, tmp_path: Path, model: Any
) -> None:
    payload = make_payload(kind, tiny_model_folder, tmp_path / kind)
    tuned = load_tuned(tiny_model_folder, payload, dtype="float32")
    seen: list[tuple[int, int]] = []

    def note(_: Any, given: Any, named: dict[str, Any]) -> None:
        ids = named.get("input_ids")
        seen.append(tuple((named["inputs_embeds"] if ids is None else ids).shape[:2]))

    hook = tuned.get_base_model().model.register_forward_pre_hook(note, with_kwargs=True)
    together = written(tuned)
    hook.remove()
    learned = [(1, 20)] if kind == "prompt" else []
    assert seen[: len(learned) + 2] == [*learned, (1, 3), (len(PROMPTS), 5)]
    assert together == alone(tuned)


def windowed() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=128, num_key_value_heads=2, sliding_window=4, **small)
    return MistralForCausalLM(config).float().eval()


def without_positions() -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4)
    return BloomForCausalLM(config).float().eval()


@pytest.mark.parametrize("make", [windowed, without_positions])
def test_other_architectures_answer_as_alone(make: Callable[[], Any]) -> None:
    model = make()
    ends = {alone(model)[1][4]}
    assert written(model) == alone(model)
    assert written(model, ends=ends) == alone(model, ends)
    assert written(model, stopped=lambda tokens: len(tokens) == 3) == [each[:3] for each in alone(model)]
    answers = write(model, rows_of(PROMPTS, new_tokens=3, ends=NEVER), logits=2)
    assert [[int(each.argmax()) for each in answer.chosen_from] for answer in answers] == [
        answer.tokens for answer in answers
    ]
    assert all(
        torch.allclose(answer.read[-2:], last_logits(model, prompt, 2), atol=1e-4)
        for answer, prompt in zip(answers, PROMPTS, strict=True)
    )


def test_how_far_it_is_is_heard_within_a_batch(model: Any) -> None:
    heard = list[float]()
    write_all(model, rows_of(PROMPTS, new_tokens=4, ends=NEVER), 10_000, heard.append)
    assert heard == [0.25, 0.5, 0.75, 1.0]
