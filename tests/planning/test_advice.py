import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ft_dagster.methods.lora import LoraSettings
from ft_dagster.planning.advice import alpha_note, release_warnings
from ft_dagster.training.batches import attention
from tests.older_trl import have_older_trl
from tests.planning.llama import ADAPTERS, METHODS, facts, gpus, plan, spec

NO_GENERAL = {"sources": ["r.jsonl"]}
EIGHT = gpus(8, examples=1_600, tokens=160_000)  # rows enough for a hundred steps of eight


def about(made: dict[str, Any], text: str) -> list[str]:
    return [line for line in made["warnings"] if text in line]


@pytest.mark.parametrize("method", METHODS)
def test_the_usual_raises_no_warning(method: str) -> None:
    assert plan(method, EIGHT)["warnings"] == []


@pytest.mark.parametrize("method", ADAPTERS)
def test_new_knowledge_by_an_adapter_is_said_first_and_loud(method: str) -> None:
    made = plan(method, objective="domain_knowledge")
    assert made["warnings"][0].startswith(
        f"NEW KNOWLEDGE BY {method.upper()}: style is learned, facts perhaps not"
    )
    assert "factual questions" in made["warnings"][0]


def test_new_knowledge_by_full_is_what_full_is_for() -> None:
    assert not about(plan("full", objective="domain_knowledge"), "NEW KNOWLEDGE")


@pytest.mark.parametrize(("share", "said"), [(0.0, True), (0.03, True), (0.0499, False), (0.08, False)])
def test_full_wants_five_percent_of_general_data(share: float, said: bool) -> None:
    made = plan("full", facts(general_share=share))
    assert bool(about(made, "it moves every weight")) is said


def test_full_without_general_data_is_warned_of_once() -> None:
    made = plan("full", facts(general_share=0.0), data=NO_GENERAL)
    assert len(about(made, "general data")) == 1


@pytest.mark.parametrize("method", ADAPTERS)
def test_frozen_weights_are_not_frozen_behaviour(method: str) -> None:
    assert about(plan(method, facts(general_share=0.0), data=NO_GENERAL), "not frozen behaviour")


@pytest.mark.parametrize(("share", "said"), [(0.02, True), (0.1002, False), (0.25, True)])
def test_a_share_outside_the_usual_is_said_as_it_came_out(share: float, said: bool) -> None:
    lines = about(plan("lora", facts(general_share=share)), "outside the usual 5-10%")
    assert bool(lines) is said
    assert not said or f"{share:.1%}" in lines[0]


@pytest.mark.parametrize(
    ("share_of", "trained", "said"),
    [("trained", 6_000, True), ("trained", 20_000, False), ("processed", 6_000, False)],
)
def test_a_usual_share_of_few_trained_tokens_is_little_of_what_is_read(
    share_of: str, trained: int, said: bool
) -> None:
    data = {"sources": ["r.jsonl"], "general": {"corpus": "general", "share": 0.08, "share_of": share_of}}
    made = plan("lora", facts(general_share=0.08, trained_tokens=trained), data=data)
    lines = about(made, "general text is 8.0% of the trained tokens and 1.2% of all that are read")
    assert bool(lines) is said


@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({"rank": 64, "alpha": 16}, "scales by 0.25 (alpha/r)"),
        ({"rank": 16, "alpha": 16}, "scales by 1 (alpha/r)"),
        ({"rank": 16, "alpha": 32, "use_rslora": True}, "scales by 8 (alpha/sqrt(r))"),
    ],
)
@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit"])
def test_an_unusual_scaling_is_named(method: str, settings: dict[str, Any], scaling: str) -> None:
    (line,) = plan({"name": method, **settings}, gpus(1))["warnings"]
    assert scaling in line


@pytest.mark.parametrize("settings", [{"rank": 64}, {"rank": 16, "alpha": 8, "use_rslora": True}])
def test_alpha_32_at_any_rank_and_its_like_is_not(settings: dict[str, Any]) -> None:
    assert plan({"name": "lora", **settings}, gpus(1))["warnings"] == []


@pytest.mark.parametrize(("rank", "alpha"), [(64, 128), (8, 16), (16, 32)])
def test_alpha_2r_is_the_common_rule_and_no_warning(rank: int, alpha: float) -> None:
    assert plan({"name": "lora", "rank": rank, "alpha": alpha}, gpus(1))["warnings"] == []


def test_alpha_2r_has_a_note_with_its_ground_and_its_limits() -> None:
    def note(**settings: Any) -> str | None:
        return alpha_note(LoraSettings(**settings))

    said = note(rank=64, alpha=128)
    assert said is not None
    assert said.startswith("alpha 128 is 2r, the common rule: steps of 4 times those of 32")
    assert "On two tasks of a 135M base" in said
    assert said.endswith("no other size was measured")
    assert note(rank=16, alpha=32) is note(rank=64, alpha=32) is note(rank=8, alpha=64) is None
    assert note(rank=16, alpha=32, use_rslora=True) is None


def test_fewer_than_fifty_optimizer_steps_are_said_with_the_numbers() -> None:
    few = facts(tokens=512 * 20)
    (line,) = plan("lora", few, training={"gradient_accumulation_steps": 2})["warnings"]
    assert line.startswith(
        "30 optimizer steps (about 20 packed rows of 512 tokens, 3 epochs, 2 a step): fewer than"
    )
    assert plan("lora", few)["warnings"] == []  # 60, of a row each
    (line,) = plan("lora", training={"max_steps": 40})["warnings"]
    assert line.startswith("40 optimizer steps (training.max_steps: 40): fewer than 50")
    assert plan("lora", training={"max_steps": 50})["warnings"] == []


def test_the_scaling_warning_says_which_alpha_is_usual() -> None:
    assert about(
        plan({"name": "qlora", "rank": 64, "alpha": 16}),
        "steps of 0.5 times those that usual rates are for, which alpha 32 would give",
    )


@pytest.mark.parametrize(("method", "rate", "side"), [("full", 2e-4, "above"), ("lora", 2e-5, "below")])
def test_a_rate_of_another_method_is_noticed(method: str, rate: float, side: str) -> None:
    (line,) = plan(method, EIGHT, training={"learning_rate": rate})["warnings"]
    assert f"{rate:g} is {side} the usual" in line


def test_a_rate_is_noticed_by_what_is_usual_at_a_base_s_width() -> None:
    small = facts(hidden_size=576)
    assert about(plan("lora", small, training={"learning_rate": 6e-4}), "learning rate") == []
    assert about(plan("lora", training={"learning_rate": 6e-4}), "above the usual 0.0001 to 0.0003")
    assert about(plan("lora", small, training={"learning_rate": 2e-3}), "above the usual 0.0001 to 0.0006")


@pytest.fixture
def older_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's attention over packed examples as its first versions had it, without a window."""
    older = ModuleType("torch.nn.attention.varlen")
    older.__spec__ = ModuleSpec(older.__name__, None)

    def varlen_attn(query: Any, key: Any, value: Any, *ends: Any, is_causal: bool = False) -> None:
        raise AssertionError("it does not attend as packing asks")

    vars(older)["varlen_attn"] = varlen_attn
    monkeypatch.setitem(sys.modules, older.__name__, older)
    attention.installed_kernel.cache_clear()
    yield
    attention.installed_kernel.cache_clear()


def test_a_trl_without_a_fused_head_is_named_in_the_plan_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_older_trl(tmp_path, monkeypatch)
    (adapter,) = plan("lora", gpus(1))["warnings"]
    assert adapter.startswith("TRL 1.14.0 has no fused output head, which 1.15 has: logits are made a part")
    (whole,) = plan("full", EIGHT)["warnings"]
    assert "logits of all trained positions of a micro-batch are made at once" in whole
    assert plan("lora")["warnings"] == plan("prompt_tuning", gpus(1))["warnings"] == []


def test_new_tokens_of_an_adapter_on_gpus_are_named_as_what_keeps_it_from_the_fused_head() -> None:
    declared: dict[str, Any] = {"base_model": {"source": "b", "new_tokens": ["<ticket>"]}}
    (line,) = plan("lora", gpus(1), **declared)["warnings"]
    assert line.startswith("TRL's fused output head does not read the rows of new tokens: logits of all")
    assert not about(plan("lora", **declared), "fused")
    assert not about(plan("full", gpus(8), **declared), "fused")


@pytest.mark.usefixtures("older_attention")
def test_a_torch_without_fitting_attention_is_named_in_the_plan_of_gpus() -> None:
    (line,) = plan("lora", gpus(1))["warnings"]
    assert "has no attention over packed examples that fits" in line
    assert f"torch {torch.__version__}" in line
    assert plan("lora")["warnings"] == plan("lora", gpus(1), training={"packing": False})["warnings"] == []


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_a_quantized_method_without_a_gpu_says_what_runs_instead(method: str) -> None:
    assert about(plan(method), "bitsandbytes' CPU kernels")


def test_bf16_without_bf16_arithmetic_is_emulated() -> None:
    assert about(plan("lora", facts(bf16=False), training={"precision": "bf16"}), "emulated")


@pytest.mark.parametrize(("task", "said"), [((), 1), (("facts.yaml",), 0)])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_knowledge_is_judged_by_questions(method: str, task: tuple[()] | tuple[str], said: int) -> None:
    given: dict[str, Any] = {"method": method, "objective": "domain_knowledge"}
    declared = spec(**given, evaluation={"task": task}, export="merged")
    lines = release_warnings(declared, method, plan(**given)["storage"], 1)
    assert len([line for line in lines if "evaluation.task" in line]) == said


@pytest.mark.parametrize(
    ("export", "sharing", "said"),
    [
        (
            "merged",
            5,
            "16,228.3 MB for each of the tenant's 5 variants on this base; an adapter is 167.8 MB",
        ),
        ("merged", 1, None),
        ("adapter", 5, None),
        ("adapter", 1, "adapter is 167.8 MB in fp32 and needs its base beside it"),
    ],
)
def test_an_export_that_does_not_suit_the_number_of_variants_shows_both_sizes(
    export: str, sharing: int, said: str | None
) -> None:
    lines = release_warnings(spec(method="lora", export=export), "lora", plan("lora")["storage"], sharing)
    assert (said in lines[0]) if said else (lines == [])


@pytest.mark.parametrize("method", ["full", "prompt_tuning", "prefix_tuning"])
def test_a_method_of_one_export_has_no_choice_to_warn_of(method: str) -> None:
    assert release_warnings(spec(method=method), method, plan(method)["storage"], 1) == []


def test_how_it_is_judged_and_served_changes_no_plan() -> None:
    one = plan("lora", evaluation={"limit": 5}, export="merged")
    assert one == plan("lora", evaluation={"task": ["facts.yaml"]}, export="adapter")


def test_an_adapter_with_fewer_parameters_than_trained_tokens_is_told_which_rank_has_as_many() -> None:
    held = plan("lora", gpus(8))["trainable_parameters"]
    assert not about(plan("lora", gpus(8, trained_tokens=held)), "trained tokens")
    (line,) = about(plan("lora", gpus(8, trained_tokens=3 * held, tokens=6 * held)), "trained tokens")
    assert line.startswith(f"rank 16 trains {held:,} parameters")
    assert line.endswith("rank 64 would have as many")
    declared = {"name": "lora", "rank": 16}
    (line,) = about(plan(declared, gpus(8, trained_tokens=3 * held, tokens=6 * held)), "trained tokens")
    assert line.endswith("rank 64 would have as many")
    (line,) = about(
        plan("lora", gpus(8, trained_tokens=10_000 * held, tokens=20_000 * held)), "trained tokens"
    )
    assert line.endswith("no rank has as many: full would")


@pytest.mark.parametrize(("method", "rows", "said"), [("lora", 32, 0), ("lora", 33, 1), ("full", 64, 0)])
def test_a_large_batch_is_said_of_adapters_alone(method: str, rows: int, said: int) -> None:
    training = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": rows}
    lines = about(plan(method, gpus(1), training=training), "rows a step")
    assert len(lines) == said
    assert all(line.endswith("the usual rate of 0.0002, for 16 rows, would be 0.0003") for line in lines)
