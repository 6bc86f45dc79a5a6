from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.facts import Facts
from ft_dagster.spec.training import Deepspeed
from tests.planning.llama import A100_80, LLAMA_70B, METHODS, facts, gpus, plan, reason


def stage(made: dict[str, Any]) -> int:
    return made["training"]["deepspeed"]["stage"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("declared", ["auto", 0])
def test_one_process_shards_nothing(method: str, declared: int | str) -> None:
    made = plan(method, gpus(1), training={"deepspeed": {"stage": declared}})
    assert made["training"]["deepspeed"] == Deepspeed(stage=0).model_dump()


@pytest.mark.parametrize("given", [gpus(8, memory=None), facts(ranks=2)], ids=["gpus", "cpu"])
def test_full_is_sharded_whole_where_no_memory_of_a_device_is_known(given: Facts) -> None:
    assert stage(plan("full", given)) == 3


@pytest.mark.parametrize(
    ("memory", "parameters", "expected"),
    [(A100_80, 10**9, 0), (A100_80, 8 * 10**9, 2), (24 * 10**9, 8 * 10**9, 3), (17 * 10**9, 10**9, 2)],
)
def test_full_on_gpus_takes_the_least_stage_that_fits_with_room(
    memory: int, parameters: int, expected: int
) -> None:
    made = plan("full", gpus(8, memory=memory, parameters=parameters))
    assert stage(made) == expected
    assert made["memory"].floor_bytes <= 0.9 * memory


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_adapter_is_copied_where_its_base_fits(method: str) -> None:
    made = plan(method, gpus(8))
    assert stage(made) == 0
    assert made["memory"].floor_bytes == plan(method, gpus(1))["memory"].floor_bytes


def test_a_base_that_fits_no_device_is_sharded() -> None:
    made = plan("lora", gpus(8, memory=24 * 10**9, **LLAMA_70B))
    assert stage(made) == 3
    assert "does not fit a device" in reason(made, "training.deepspeed.stage")["reason"]


@pytest.mark.parametrize("method", ["qlora", "lora_8bit", "prompt_tuning", "prefix_tuning"])
def test_what_the_trainer_does_not_shard_is_never_counted_as_sharded(method: str) -> None:
    made = plan(method, gpus(8, memory=24 * 10**9, **LLAMA_70B))
    assert stage(made) == 0


@pytest.mark.parametrize("method", ["lora_8bit", "prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize(("deepspeed", "field"), [({"stage": 3}, "stage"), ({"offload": "cpu"}, "offload")])
def test_sharding_is_refused_where_the_trainer_lacks_it(
    method: str, deepspeed: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError, match="copies only") as error:
        plan(method, gpus(8), training={"deepspeed": deepspeed})
    assert error.value.field == f"training.deepspeed.{field}"


@pytest.mark.parametrize("given", [gpus(8), facts(ranks=2)], ids=["gpus", "cpu"])
def test_zero_3_of_a_4_bit_base_is_refused_since_each_process_loads_it_whole(given: Facts) -> None:
    with pytest.raises(UserError, match=r"loaded whole by each process.*declare 2 .*or take lora") as error:
        plan("qlora", given, training={"deepspeed": 3})
    assert error.value.field == "training.deepspeed.stage"
    assert stage(plan("qlora", given, training={"deepspeed": 2})) == 2


def test_offload_beside_a_4_bit_base_divides_what_is_trained_alone() -> None:
    made = plan("qlora", gpus(8, memory=40 * 10**9), training={"deepspeed": {"offload": "cpu"}})
    assert stage(made) == 2
    assert "the 4-bit base stays whole" in reason(made, "training.deepspeed.stage")["reason"]


def test_a_declared_stage_is_obeyed() -> None:
    made = plan("lora", gpus(8), training={"deepspeed": {"stage": 2, "bucket_mb": 50}})
    assert made["training"]["deepspeed"] == Deepspeed(stage=2, bucket_bytes=50_000_000).model_dump()
    assert reason(made, "training.deepspeed.stage")["origin"] == "declaration"


def test_a_stage_for_several_gpus_is_dropped_out_loud_on_a_host_of_one_process() -> None:
    made = plan("full", facts(), training={"deepspeed": 3}, resources={"gpus": 8})
    assert stage(made) == 0
    assert reason(made, "training.deepspeed.stage")["origin"] == "host"
    assert any("8 GPUs are declared and this host has none" in line for line in made["warnings"])


def test_offload_takes_states_and_weights_off_one_gpu() -> None:
    nvme: dict[str, Any] = {"offload": "nvme", "nvme_path": "/fast"}
    made = plan("full", gpus(1), training={"deepspeed": nvme})
    assert made["training"]["deepspeed"] == Deepspeed(stage=3, **nvme).model_dump()
    assert made["memory"].offloaded_bytes > 100e9


def test_offload_has_no_device_to_relieve_on_a_cpu() -> None:
    made = plan("full", facts(ranks=2), training={"deepspeed": {"offload": "nvme", "nvme_path": "/fast"}})
    assert made["training"]["deepspeed"] == Deepspeed(stage=3).model_dump()
    assert reason(made, "training.deepspeed.offload")["origin"] == "host"


def test_offload_without_zero_is_refused() -> None:
    with pytest.raises(UserError) as error:
        plan("full", gpus(8), training={"deepspeed": {"stage": 0, "offload": "cpu"}})
    assert error.value.field == "training.deepspeed.offload"
