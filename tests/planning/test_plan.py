import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.plan import Facts, make_plan
from ft_dagster.planning.shapes import adapter_parameters, linear_shapes
from ft_dagster.spec import VariantSpec

LLAMA_3_8B = {
    "q_proj": [[4096, 4096]] * 32, "k_proj": [[1024, 4096]] * 32, "v_proj": [[1024, 4096]] * 32,
    "o_proj": [[4096, 4096]] * 32, "gate_proj": [[14336, 4096]] * 32, "up_proj": [[14336, 4096]] * 32,
    "down_proj": [[4096, 14336]] * 32,
}  # fmt: skip


def spec(**more):
    return VariantSpec.model_validate(
        {"description": "x", "owners": ["a"], "base_model": "b", "data": {"sources": ["r.jsonl"]}, **more}
    )


def facts(**more):
    given = {
        "examples": 400, "tokens": 40_000, "trained_tokens": 20_000, "max_length": 512,
        "parameters": 8_030_261_248, "linear_shapes": LLAMA_3_8B, "device_kind": "cpu", "device_count": 1,
        "device_memory": None, "bf16": True,
    }  # fmt: skip
    return Facts(**{**given, **more})


@pytest.mark.parametrize(
    ("rank", "targets", "expected"),
    [
        (16, "all-linear", 41_943_040),
        (32, "all-linear", 83_886_080),
        (64, "all-linear", 167_772_160),
        (16, ["q_proj", "k_proj", "v_proj", "o_proj"], 13_631_488),
        (64, ["q_proj", "k_proj", "v_proj", "o_proj"], 54_525_952),
    ],
)
def test_adapter_parameters_of_llama_3_8b(rank, targets, expected):
    assert adapter_parameters(LLAMA_3_8B, rank, targets) == expected


def test_shapes_read_from_a_model_count_what_peft_makes(tiny_model_folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainable, _ = peft.get_nb_trainable_parameters()
    assert adapter_parameters(linear_shapes(tiny_model_folder), 4, "all-linear") == trainable


def test_defaults_follow_the_method_notes_and_carry_their_reason():
    plan = make_plan(spec(), facts())
    assert plan["method"]["name"] == "lora"
    assert (plan["method"]["rank"], plan["method"]["alpha"]) == (16, 32.0)
    assert plan["method"]["target_modules"] == "all-linear"
    assert plan["training"]["learning_rate"] == 2e-4
    assert plan["training"]["warmup_ratio"] == 0.03
    assert all(reason["reason"] and reason["origin"] for reason in plan["reasons"])


@pytest.mark.parametrize(("examples", "rank"), [(9_999, 16), (200_000, 32), (600_000, 64)])
def test_more_data_gets_more_rank(examples, rank):
    assert make_plan(spec(), facts(examples=examples))["method"]["rank"] == rank


def test_what_is_declared_is_obeyed_and_said():
    plan = make_plan(spec(method={"name": "lora", "rank": 64, "alpha": 16}), facts())
    assert plan["method"]["rank"] == 64
    assert {"field": "method.rank", "value": 64, "origin": "declaration", "reason": "as declared"} in plan[
        "reasons"
    ]
    assert "scales by 0.25" in plan["warnings"][0]


def test_the_bf16_of_the_hardware_decides_the_precision():
    assert make_plan(spec(), facts(bf16=False))["training"]["precision"] == "fp32"
    assert make_plan(spec(training={"precision": "fp32"}), facts())["training"]["precision"] == "fp32"


def test_weights_that_alone_exceed_the_device_do_not_fit():
    plan = make_plan(spec(), facts(device_memory=8 * 10**9))
    assert plan["fits"] is False
    assert make_plan(spec(), facts(device_memory=24 * 10**9))["fits"] is True


def test_steps_follow_from_rows_epochs_and_batch():
    training = {"num_train_epochs": 3, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 1}
    assert make_plan(spec(training=training), facts(tokens=51_200))["steps"] == 75
    assert make_plan(spec(training={"max_steps": 7}), facts())["steps"] == 7


def test_a_share_outside_the_usual_is_said():
    declared = spec(data={"sources": ["r.jsonl"], "general": {"corpus": "g", "share": 0.25}})
    assert "25%" in make_plan(declared, facts())["warnings"][0]


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ({"name": "lora", "target_modules": ["q_prj"]}, "method.target_modules"),
        ({"name": "lora", "rank": 1024}, "method.rank"),
    ],
)
def test_settings_that_the_base_cannot_have_are_refused(method, field):
    small = {"q_proj": [[64, 64]], "k_proj": [[32, 64]]}
    with pytest.raises(UserError) as error:
        make_plan(spec(method=method), facts(linear_shapes=small))
    assert error.value.field == field


def test_a_mixture_without_trained_tokens_is_refused():
    with pytest.raises(UserError, match="no trained token"):
        make_plan(spec(), facts(trained_tokens=0))
