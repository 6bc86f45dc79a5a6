import json
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.facts import Facts
from ft_dagster.spec.method import METHOD_SETTINGS
from ft_dagster.training.contract import Plan, method_settings
from ft_dagster.training.methods import taught_by
from tests.planning.llama import A100_80, METHODS, facts, gpus, plan, reason


@pytest.mark.parametrize("method", METHODS)
def test_the_trainer_takes_a_plan_as_it_is(method: str) -> None:
    made = json.loads(json.dumps(plan(method), default=vars))
    read = Plan.model_validate(made)
    own = {"activations": "bf16"} if method == "qlora" else {}  # by the plan, and in no declaration
    assert read.method.model_dump(mode="json") == {"name": method, **own} | {
        name: made["method"][name] for name in METHOD_SETTINGS[method] if name in made["method"]
    }
    assert taught_by(read.method).known.packs or not read.training.packing
    assert read.training.model_dump(mode="json") == made["training"]


@pytest.mark.parametrize("method", METHODS)
def test_every_value_says_where_it_came_from_and_why(method: str) -> None:
    made = plan(method, training={"weight_decay": 0.1})
    rows = {row["field"]: row for row in made["reasons"]}
    assert len(rows) == len(made["reasons"])
    assert all(
        row["reason"] and row["origin"] in {"declaration", "built-in", "host"} for row in rows.values()
    )
    values = {f"method.{name}": value for name, value in made["method"].items()}
    values |= {f"training.{name}": value for name, value in made["training"].items()}
    for part in ("deepspeed", "watch"):
        nested = values.pop(f"training.{part}")
        values |= {f"training.{part}.{name}": value for name, value in nested.items()}
    values["training.watch.budget"] = 0.1  # not written where it is the default: plans keep their bytes
    assert {field: row["value"] for field, row in rows.items()} == values
    assert rows["training.weight_decay"]["origin"] == "declaration"


@pytest.mark.parametrize(
    ("method", "rate", "epochs"),
    [
        ("full", 2e-5, 2.0),
        ("lora", 2e-4, 3.0),
        ("qlora", 2e-4, 3.0),
        ("lora_8bit", 2e-4, 3.0),
        ("prompt_tuning", 3e-2, 10.0),
        ("prefix_tuning", 1e-2, 5.0),
    ],
)
def test_each_method_has_its_own_rate_and_epochs(method: str, rate: float, epochs: float) -> None:
    training = plan(method)["training"]
    assert (training["learning_rate"], training["num_train_epochs"]) == (rate, epochs)
    assert (training["lr_scheduler_type"], training["warmup_ratio"]) == ("cosine", 0.03)


@pytest.mark.parametrize(
    ("width", "lora", "full"),
    [
        (64, 4e-4, 6e-5),
        (576, 4e-4, 6e-5),
        (2048, 3e-4, 3e-5),
        (3584, 2e-4, 2e-5),
        (5120, 2e-4, 2e-5),
        (6656, 1e-4, 2e-5),
        (8192, 1e-4, 2e-5),
    ],
)
def test_a_narrower_base_is_trained_at_a_higher_rate(width: int, lora: float, full: float) -> None:
    made = plan("lora", facts(hidden_size=width))
    assert made["training"]["learning_rate"] == lora
    why = reason(made, "training.learning_rate")["reason"]
    assert ("small models learned more" in why) == (lora > 2e-4)
    assert plan("full", facts(hidden_size=width))["training"]["learning_rate"] == full
    narrow = {"objective": "task_specific", "evaluation": {"kind": "label"}}
    of_one_task = plan("full", facts(hidden_size=width), **narrow)["training"]["learning_rate"]
    assert of_one_task == {6e-5: 1e-4, 3e-5: 4e-5, 2e-5: 2e-5}[full]
    prompt = plan("prompt_tuning", facts(hidden_size=width))
    assert prompt["training"]["learning_rate"] == 3e-2


@pytest.mark.parametrize(("rows", "passes"), [(11, 4.0), (30, 4.0), (60, 2.0), (100, 1.0), (5000, 1.0)])
def test_raw_text_of_few_steps_is_read_again(rows: int, passes: float) -> None:
    few = facts(tokens=512 * rows)
    assert plan("full", few, objective="domain_knowledge")["training"]["num_train_epochs"] == passes
    assert plan("full", few)["training"]["num_train_epochs"] == 2.0


@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit"])
def test_an_adapter_covers_all_linear_layers_at_alpha_32(method: str) -> None:
    settings = plan(method)["method"]
    settings.pop("activations", None)
    assert settings == {
        "name": method, "rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear",
        "use_rslora": False, "use_dora": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "given", "expected"),
    [
        ("qlora", facts(), "bf16"),
        ("qlora", gpus(1), "bf16"),
        ("qlora", facts(bf16=False), None),
        ("lora_8bit", facts(), None),
        ("lora", facts(), None),
    ],
)
def test_qlora_keeps_its_activations_in_bf16_where_the_hardware_computes_in_it(
    method: str, given: Facts, expected: str | None
) -> None:
    made = plan(method, given)
    assert made["method"].get("activations") == expected
    assert "activations" in made["method"] or expected is None
    if expected:
        assert "half as much again" in reason(made, "method.activations")["reason"]


def test_activations_that_would_not_act_are_refused() -> None:
    with pytest.raises(UserError, match=r"method.activations: .* Settings of lora: name, rank"):
        method_settings({"name": "lora", "activations": "bf16"})


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_soft_prompts_have_twenty_positions_and_are_not_packed(method: str) -> None:
    made = plan(method)
    assert made["method"] == {"name": method, "num_virtual_tokens": 20}
    assert made["training"]["packing"] is False
    assert plan({"name": method, "num_virtual_tokens": 8})["method"]["num_virtual_tokens"] == 8


@pytest.mark.parametrize(
    ("examples", "objective", "rank"),
    [
        (9_999, "instruction", 16),
        (10_000, "instruction", 32),
        (500_000, "instruction", 32),
        (500_001, "instruction", 64),
        (400, "domain_knowledge", 64),
    ],
)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_more_data_and_new_knowledge_get_more_rank(
    method: str, examples: int, objective: str, rank: int
) -> None:
    made = plan(method, facts(examples=examples), objective=objective)
    assert made["method"]["rank"] == rank


def test_a_rank_by_default_stays_within_the_smallest_layer() -> None:
    small = {"q_proj": [[64, 64]], "k_proj": [[32, 64]]}
    made = plan("lora", facts(linear_shapes=small), objective="domain_knowledge")
    assert made["method"]["rank"] == 32
    assert "allows 32" in reason(made, "method.rank")["reason"]


def test_what_is_declared_is_obeyed_and_said() -> None:
    made = plan({"name": "lora", "rank": 8, "dropout": 0.0})
    assert (made["method"]["rank"], made["method"]["alpha"], made["method"]["dropout"]) == (8, 32.0, 0.0)
    assert reason(made, "method.rank") == {
        "field": "method.rank", "value": 8, "origin": "declaration", "reason": "as declared"
    }  # fmt: skip


def test_the_bf16_of_the_hardware_decides_the_precision() -> None:
    made = plan(given=facts(bf16=False))
    assert made["training"]["precision"] == "fp32"
    assert reason(made, "training.precision")["origin"] == "host"
    assert plan(training={"precision": "fp32"})["training"]["precision"] == "fp32"


@pytest.mark.parametrize(
    ("parameters", "on"), [(134_500_000, False), (3_000_000_000, True), (8_000_000_000, True)]
)
@pytest.mark.parametrize("method", ["full", "lora", "qlora", "lora_8bit", "prompt_tuning"])
def test_large_models_recompute_their_activations(method: str, parameters: int, on: bool) -> None:
    made = plan(method, facts(parameters=parameters, linear_shapes={"q_proj": [[512, 512]]}))
    assert made["training"]["gradient_checkpointing"] is on


def test_a_prefix_is_never_recomputed() -> None:
    assert plan("prefix_tuning")["training"]["gradient_checkpointing"] is False
    with pytest.raises(UserError) as error:
        plan("prefix_tuning", training={"gradient_checkpointing": True})
    assert error.value.field == "training.gradient_checkpointing"


def test_what_watches_a_training_is_in_it_and_where_it_is_shown_is_not() -> None:
    watch = {"questions": 20, "benchmark_limit": 0.1}
    training = plan(training={"watch": watch, "report_to": ["tensorboard"]})["training"]
    assert training["watch"] == {"questions": 20, "general_loss_limit": None, "benchmark_limit": 0.1}
    assert training == plan(training={"watch": watch})["training"]


def test_steps_follow_from_rows_epochs_batch_and_processes() -> None:
    training = {"num_train_epochs": 3, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 1}
    rows = {"tokens": 51_200}  # 100 rows of 512
    assert plan("lora", facts(**rows), training=training)["steps"] == 75
    assert plan("lora", facts(**rows, ranks=2), training=training)["steps"] == 38
    assert plan("lora", facts(ranks=2), training={"max_steps": 7})["steps"] == 7
    assert plan("prompt_tuning", facts(examples=100), training=training)["steps"] == 75  # a row each


def test_the_batch_by_default_is_one_over_all_processes() -> None:
    rows = {"tokens": 512 * 10_000}
    sizes = [
        plan("lora", facts(**rows, ranks=n))["training"]["gradient_accumulation_steps"] * n
        for n in (1, 4, 16)
    ]
    assert sizes == [16, 16, 16]


@pytest.mark.parametrize(
    ("method", "given", "rows"),
    [
        ("full", {}, 128),
        ("full", {"max_length": 2048, "tokens": 2048 * 10_000}, 32),
        ("full", {"max_length": 8192, "tokens": 8192 * 10_000}, 16),
        ("full", {"tokens": 512 * 2_000}, 40),  # 100 steps of two epochs
        ("full", {"parameters": 2_999_999_999}, 16),
        ("full", {"device_kind": "cpu", "device_memory": None}, 16),
        ("lora", {}, 16),
        ("qlora", {}, 16),
    ],
)
def test_a_step_of_a_large_base_that_is_trained_whole_on_gpus_is_larger(
    method: str, given: dict[str, Any], rows: int
) -> None:
    on_gpus = {"device_kind": "cuda", "ranks": 8, "device_memory": A100_80, "tokens": 512 * 10_000}
    made = plan(method, facts(**{**on_gpus, **given}))
    assert made["training"]["gradient_accumulation_steps"] * 8 == rows


def test_a_plan_says_which_steps_the_rate_of_a_large_base_is_for() -> None:
    def said(field: str, method: str = "full", tokens: int = 512 * 10_000, **more: Any) -> str:
        rows = plan(method, gpus(8, tokens=tokens), **more)["reasons"]
        return next(str(row["reason"]) for row in rows if row["field"] == f"training.{field}")

    assert said("learning_rate").endswith("; published for 65,536 tokens a step")
    assert said("gradient_accumulation_steps").endswith(
        "100 steps or more of at most 128 rows, 65,536 tokens, at which the usual rate was published"
    )
    small = {"gradient_accumulation_steps": 1}  # 8 rows of 512
    by_root = said("learning_rate", training=small)
    assert by_root.endswith("at 4,096 Adam's square-root rule (arXiv 2205.10287) would give 5.0e-06")
    assert said("learning_rate", training={"learning_rate": 1e-5}) == "as declared"
    assert said("learning_rate", "lora") == "2e-4 at 7B and 13B, 16 rows a step (QLoRA on OASST1)"
    assert said("gradient_accumulation_steps", "lora").endswith(
        "16 rows: large batches cost an adapter more, at any rank"
    )


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ({"name": "lora", "target_modules": ["q_prj"]}, "method.target_modules"),
        ({"name": "qlora", "rank": 1024}, "method.rank"),
    ],
)
def test_settings_that_the_base_cannot_have_are_refused(method: dict[str, Any], field: str) -> None:
    small = {"q_proj": [[64, 64]], "k_proj": [[32, 64]]}
    with pytest.raises(UserError) as error:
        plan(method, facts(linear_shapes=small))
    assert error.value.field == field


def test_a_base_without_linear_layers_is_refused() -> None:
    with pytest.raises(UserError, match="Use full"):
        plan("lora", facts(linear_shapes={}))


def test_a_base_whose_packed_examples_leak_is_planned_unpacked_with_what_that_costs() -> None:
    leaking = facts(leak="the second moved by 4.6", longest=300, examples=400, tokens=40_000)
    made = plan("lora", leaking)
    assert made["training"]["packing"] is False
    row = reason(made, "training.packing")
    assert (row["value"], row["origin"]) == (False, "measured")
    cost = (
        "each example has a row of its own, 400 a pass in place of about 79 packed ones, padded to the "
        "longest of its micro-batch: at most about 3 times the positions"
    )
    assert row["reason"] == f"the second moved by 4.6; {cost}"


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_method_that_packs_nowhere_says_that_and_no_more_of_a_base_that_leaks(method: str) -> None:
    made = plan(method, facts(leak="the second moved by 4.6"))
    assert "drops the positions" in reason(made, "training.packing")["reason"]
    assert not any("not packed" in line for line in made["warnings"])


@pytest.mark.parametrize("method", METHODS)
def test_a_leak_changes_no_plan_that_is_declared_unpacked(method: str) -> None:
    apart, leaking = (
        plan(method, facts(leak=leak), training={"packing": False}) for leak in (None, "it moved by 1")
    )
    assert apart == leaking
