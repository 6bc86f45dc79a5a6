"""A model over two devices scores and answers as the same model on one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.integrations.accelerate import compute_module_sizes

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.errors import UserError
from ft_dagster.evaluation.models import greedy, load
from ft_dagster.evaluation.models.greedy import rows_of, write
from ft_dagster.evaluation.models.load import load_base, placement
from ft_dagster.evaluation.models.model import TokenBatchedLM, load_judged
from ft_dagster.evaluation.sampled import draw
from ft_dagster.launch.rank import LEASE
from tests.evaluation.payloads import PROMPTS, make_payload
from tests.evaluation.questions import requests
from tests.evaluation.two_devices import empty, lent_two, on_two, places
from tests.long import mostly_long
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow
KINDS = ("lora", "tokens", "prompt", "prefix", "full")
QUESTION = "Which documents must I bring to the bank?"
ASKED = [
    *((QUESTION, f" {choice}") for choice in ("a passport", "the whale and the ship", "a form")),
    ("The permit for a small building is given by the town within", " thirty days."),
]
GREEDY = {"until": ["bank"], "max_gen_toks": 12, "do_sample": False}
LAYERS = 6


@pytest.fixture(scope="module", params=mostly_long([True, False], [True]), ids=["tied", "untied"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with more layers than devices, its head the embedding's or its own."""
    return make_tiny_model(tmp_path_factory.mktemp("base"), layers=LAYERS, tied=request.param)


@pytest.mark.parametrize("kind", mostly_long(KINDS, ["lora", "prefix"]))
def test_scores_and_answers_are_those_of_one_device(kind: str, base: Path, tmp_path: Path) -> None:
    payload = make_payload(kind, base, tmp_path / kind)
    _, likely, answers = asked(base, payload, "cpu")
    with lent_two(base):
        lies_on, likely_there, answers_there = asked(base, payload, "cuda")
    assert lies_on == {"lazy:0", "lazy:1"}
    assert likely_there == pytest.approx(likely, abs=1e-4)
    assert answers_there == answers


def asked(base: Path, payload: Path, device: str) -> tuple[set[str], list[float], list[str]]:
    """Where the weights lie; log-likelihoods; answers."""
    model, tokenizer, difference = load_judged(base, payload, device=device, dtype="float32")
    assert difference
    lm = TokenBatchedLM(model, tokenizer)
    likely = [pair[0] for pair in lm.loglikelihood(requests("loglikelihood", *ASKED))]
    answers = lm.generate_until(requests("generate_until", *((prompt, GREEDY) for prompt in PROMPTS)))
    return {str(each.device) for each in model.parameters()}, likely, answers


def test_what_a_base_writes_is_that_of_one_device(base: Path) -> None:
    alone = written(base, "cpu")
    with lent_two(base):
        assert written(base, "cuda") == alone


def test_what_is_read_in_several_passes_is_that_of_one_device(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greedy, "BATCH_TOKENS", {"cpu": 4, "cuda": 4})
    alone = written(base, "cpu")
    with lent_two(base):
        assert written(base, "cuda") == alone


def written(base: Path, device: str) -> Any:
    """Texts drawn at random; greedy answers of which one ends before the others."""
    model, tokenizer = load_base(base, dtype="float32", device=device), load_tokenizer(base)
    prompts = [[5, 6, 7, 8], [5, 6, 40], [5, 9, 60, 61, 62]]
    first = write(model, rows_of(prompts, new_tokens=6, ends=set()))[1].tokens[1]
    answers = [each.tokens for each in write(model, rows_of(prompts, new_tokens=6, ends={first}))]
    assert len({len(each) for each in answers}) > 1
    return draw(model, tokenizer, documents=3, tokens=5, seed=0)[0], answers


def test_layers_are_laid_whole_and_evenly_within_the_memory(base: Path) -> None:
    sizes, _ = compute_module_sizes(empty(base))
    layer, whole = sizes["model.layers.0"], sizes[""]
    room = whole // 2 + 2 * layer
    found = places(base, {0: room, 1: room})
    assert [name for name in found if ".layers." in name] == [f"model.layers.{n}" for n in range(LAYERS)]
    held = [sum(sizes[name] for name in found if found[name] == device) for device in (0, 1)]
    assert max(held) <= room
    assert min(held) >= whole // 2 - 2 * max(layer, sizes["model.embed_tokens"])


def test_a_model_that_does_not_fit_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out = {**dict.fromkeys(on_two(base), "cpu"), "model.layers.5": "disk"}
    monkeypatch.setattr(load, "placement", lambda device: {"device_map": left_out})
    with pytest.raises(UserError, match="do not fit the memory that is free") as raised:
        load_base(base, device="cuda")
    assert raised.value.file == str(base)


def test_a_lease_of_several_gpus_is_filled_evenly_and_without_one_few_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    free: dict[int | str, int] = {0: 1000, 1: 800, "cpu": 10**12}
    monkeypatch.setattr("accelerate.utils.get_max_memory", lambda: free)
    monkeypatch.delenv(LEASE, raising=False)
    assert placement("cuda") == {"device_map": "sequential", "max_memory": {0: 900, 1: 720}}
    monkeypatch.setenv(LEASE, "{}")
    assert placement("cuda") == {"device_map": "balanced", "max_memory": {0: 1000, 1: 800}}
    del free[1]
    assert placement("cuda") == {"device_map": {"": "cuda"}}


def test_a_host_without_a_gpu_says_so(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no usable GPU"):
        load_base(base, device="cuda")
