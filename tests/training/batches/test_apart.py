"""Packed examples are kept apart, or not packed: measured on a class, and on the weights that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ft_dagster.exit_codes import BAD_INPUT, DONE
from ft_dagster.models.attention import attention_of
from ft_dagster.planning.dryrun.architecture import shipped
from ft_dagster.training.arguments import training_arguments
from ft_dagster.training.batches import apart
from ft_dagster.training.batches.apart import leak_of, measured_leak
from ft_dagster.training.contract import read_run, recipe_digest
from ft_dagster.training.progress import Console
from ft_dagster.training.stop_signals import Stop
from ft_dagster.training.trainer import build_trainer, prepare
from tests.tiny_classes import EXPERTS, PLAIN, STATEFUL, make_tiny, tiny_config
from tests.training.runs import Runs, made_rows, result_of, train

pytestmark = pytest.mark.slow

KEPT_APART = [*PLAIN, *EXPERTS]  # three of them without SDPA, and gpt_oss makes no mask of positions


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(kind: str) -> Path:
        file = tmp_path / kind / "config.json"
        file.parent.mkdir()
        file.write_text(tiny_config(kind).to_json_string(use_diff=False))
        return file

    return write


@pytest.mark.parametrize("kind", STATEFUL)
def test_examples_are_found_to_leak_where_a_layer_has_a_state(kind: str) -> None:
    said = measured_leak(tiny_config(kind))
    assert said is not None
    assert "the logits of the second moved by" in said


@pytest.mark.parametrize("kind", KEPT_APART)
def test_examples_are_found_apart_where_all_layers_attend(kind: str) -> None:
    assert measured_leak(tiny_config(kind)) is None


@pytest.mark.parametrize("name", shipped())
def test_a_large_base_is_measured_on_a_small_model_of_its_class(name: str) -> None:
    """Else its examples would not be packed: a layer of the largest has 3.4 GB."""
    assert leak_of(shipped()[name], None) is None


@pytest.mark.parametrize("kind", [*KEPT_APART, *STATEFUL])
def test_what_is_measured_holds_for_the_whole_model(kind: str) -> None:
    """Of all layers and widths, as transformers draws its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = tiny_config(kind)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config)).eval()
    first, other, second = (torch.arange(start, start + 12) for start in (100, 200, 300))
    with torch.no_grad():
        one, another = apart.logits_of_second(model, apart.side_by_side(first, other, second))
    assert ((one - another).abs().max().item() > 1e-5) is (kind in STATEFUL)


def test_a_class_that_cannot_be_built_small_is_not_packed_and_the_reason_says_so() -> None:
    said = measured_leak(CONFIG_MAPPING["t5"]())
    assert said is not None
    assert "no small model of its class could be made" in said
    assert "T5Config" in said


def test_no_model_above_200_mb_is_made() -> None:
    config = tiny_config("llama", intermediate_size=63, num_attention_heads=1, head_dim=20_000_000)
    said = measured_leak(config)
    assert said is not None
    assert "above 200" in said


def test_it_is_measured_once_for_a_config_and_a_version_of_transformers(
    config_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = list[str]()
    honest = apart.measured_leak

    def noted(config: Any) -> str | None:
        measured.append(config.model_type)
        return honest(config)

    monkeypatch.setattr(apart, "measured_leak", noted)
    llama, bamba, cache = config_file("llama"), config_file("bamba"), tmp_path / "cache"
    found = [leak_of(file, cache) for file in (llama, bamba, llama, bamba)]
    assert measured == ["llama", "bamba"]
    assert found[:2] == found[2:]
    copy = tmp_path / "copy.json"
    copy.write_bytes(llama.read_bytes())
    leak_of(copy, cache)
    assert measured == ["llama", "bamba"]
    monkeypatch.setattr(apart, "_installed", lambda _: "another")
    leak_of(llama, cache)
    assert measured == ["llama", "bamba", "llama"]


def test_measuring_draws_nothing_from_the_generator_of_the_process() -> None:
    before = torch.random.get_rng_state()
    measured_leak(tiny_config("llama"))
    assert torch.equal(before, torch.random.get_rng_state())


def batched(spans: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(spans[::2], spans[1::2], strict=True)


def loss_alone(base: Path) -> float:
    """The loss of the validation examples, each by itself."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    lost, count = 0.0, 0
    for ids, spans in made_rows(6, seed=2):
        wanted = [at for start, end in batched(spans) for at in range(start, end)]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        labels = torch.tensor([ids[at] for at in wanted])
        lost += cross_entropy(logits[[at - 1 for at in wanted]], labels, reduction="sum").item()
        count += len(wanted)
    return lost / count


@pytest.fixture
def leaking(runs: Runs, tmp_path: Path) -> Runs:
    """Runs of a base whose layers have a state."""
    return replace(runs, base=make_tiny("bamba", tmp_path / "bamba"))


@pytest.mark.parametrize("kind", ["gpt_oss", "gemma2"])
def test_a_base_without_sdpa_is_trained_packed_and_its_losses_are_those_of_each_example_alone(
    runs: Runs, tmp_path: Path, kind: str
) -> None:
    eager = replace(runs, base=make_tiny(kind, tmp_path / kind))
    folder = eager.prepare(training={"evaluations": 1, "watch": {"budget": None}, "precision": "fp32"})
    assert train(folder) == DONE
    figures = result_of(folder)["figures"]
    assert figures["packing_fill"] > 0.5
    assert figures["validation_loss_first"] == pytest.approx(loss_alone(eager.base), abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_that_packs_what_leaks_ends_with_exit_2_before_the_first_step(
    leaking: Runs, precision: str
) -> None:
    folder = leaking.prepare(training={"precision": precision})
    assert train(folder) == BAD_INPUT
    error = result_of(folder)["error"]
    assert (error["field"], error["value"]) == ("training.packing", "True")
    assert "packed examples of this base reach each other here" in error["problem"]
    assert not list((folder / "acme.support" / "checkpoints").glob("checkpoint-*"))


@pytest.mark.long
@pytest.mark.parametrize("method", [{}, {"name": "qlora"}, {"name": "lora_8bit"}, {"name": "full"}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_base_whose_examples_are_kept_apart_trains_packed_by_every_method(
    runs: Runs, method: dict[str, Any], precision: str
) -> None:
    folder = runs.prepare(training={"precision": precision, "max_steps": 1, "evaluations": 1}, method=method)
    assert train(folder) == DONE


def test_what_leaks_is_trained_unpacked_and_each_look_at_it_is_unpacked_too(leaking: Runs) -> None:
    folder = leaking.prepare(training={"packing": False, "evaluations": 1, "watch": {"budget": None}})
    assert train(folder) == DONE
    figures = result_of(folder)["figures"]
    assert figures["validation_loss_first"] == pytest.approx(loss_alone(leaking.base), abs=1e-5)
    assert figures["packing_fill"] < 1


def test_training_and_each_look_at_it_follow_the_one_decision(runs: Runs) -> None:
    def bins_of(**training: Any) -> tuple[int, int]:
        """The most examples of a row, of the training and of its validation."""
        run = read_run(runs.prepare(training=training))
        (member,) = run.members
        member.output.mkdir(parents=True, exist_ok=True)
        work = prepare(run, member, recipe_digest(run, member), Console())
        _, observer = build_trainer(run, work, Stop(), training_arguments(work))
        sample = observer.measuring.samples["validation"]
        trained = max(map(len, work.bins))
        return trained, max(len(each) for block in sample.blocks for each in block.bins)

    assert min(bins_of()) > 1
    assert bins_of(packing=False) == (1, 1)
