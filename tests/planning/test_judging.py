"""On how many GPUs of the catalogue a model is judged, and what is said of it."""

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.evaluation.models.arithmetic import USABLE_SHARE
from ft_dagster.launch.inventory import Device
from ft_dagster.methods.base_facts import Tensors
from ft_dagster.methods.qlora import QUANTIZED
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.planning.judging import Judges, asked, certified, foresee, foresee_all
from tests.planning.llama import LLAMA_8B, LLAMA_70B, facts
from tests.present import present

CATALOGUE = load_catalogue()
SMALL, LARGE = facts(**LLAMA_8B), facts(**LLAMA_70B)


def lent(gpus: str, *, most: int | None = None, shares: int = 1) -> Judges:
    found = CATALOGUE.gpus(gpus)
    devices = tuple(Device(str(n), found.memory_bytes, found.name) for n in range(found.count))
    return Judges(devices, found.count if most is None else most, shares, "bfloat16")


@pytest.mark.parametrize(
    ("base", "gpus", "evaluation", "export"),
    [
        (SMALL, "8xA100-80GB", 1, 1),  # 16 GB in bf16, 32 in fp32
        (SMALL, "8xL4", 2, 2),  # of 24 GB: 16 GB and 6 beside them are too much for one, 32 for one as well
        (LARGE, "8xA100-80GB", 3, 5),  # 141 GB, of which two cards leave no room for a batch; 282
        (LARGE, "8xH200", 2, 3),
    ],
)
def test_the_fewest_gpus_that_hold_it_judge(base: Any, gpus: str, evaluation: int, export: int) -> None:
    judges = lent(gpus)
    found = foresee_all(base, "lora", judges, merged=True)
    assert [each.devices for each in found] == [evaluation, export]
    usable = USABLE_SHARE * judges.memory(judges.devices[0])
    for each, held in zip(
        found, (asked(base, "bfloat16"), certified(base, "lora", merged=True)), strict=True
    ):
        assert each.weights_bytes == held.weights
        assert held.on_each_of(present(each.devices)) == each.each_bytes <= usable
        assert each.devices == 1 or held.on_each_of(present(each.devices) - 1) > usable


def test_weights_are_counted_in_the_precision_that_they_are_asked_in() -> None:
    assert asked(LARGE, "bfloat16").weights == 2 * LARGE.parameters
    assert certified(LARGE, "lora", merged=False).weights == 4 * LARGE.parameters
    rest = LARGE.parameters - LARGE.linear_parameters
    quantized = certified(LARGE, "qlora", merged=False).weights
    assert quantized == round(QUANTIZED.bytes_a_weight * LARGE.linear_parameters + 4 * rest)
    assert certified(LARGE, "qlora", merged=True).weights == 4 * LARGE.parameters


def test_the_reason_names_bytes_and_memory() -> None:
    one = present(foresee("evaluation", asked(SMALL, "bfloat16"), lent("1xA100-80GB")))
    assert one.sentence == ("judged on 1 GPU: 16.1 GB of weights in bfloat16 and 6.4 GB of keys and values")
    two = present(foresee("evaluation", asked(LARGE, "bfloat16"), lent("8xH200")))
    assert two.sentence == (
        "judged on 2 GPUs, whole layers on each: 141.1 GB of weights in bfloat16 and 16.1 GB of keys and "
        "values, where one has 150.8 GB"
    )


def test_a_tenants_quota_and_a_shared_gpu_leave_less() -> None:
    held = asked(LARGE, "bfloat16")
    within = present(foresee("evaluation", held, lent("8xA100-80GB", most=2)))
    assert (within.devices, within.each_bytes) == (2, 0)
    assert within.sentence.endswith("it may be too tight")
    assert present(foresee("evaluation", held, lent("8xA100-80GB", most=1))).devices is None
    assert present(foresee("evaluation", held, lent("8xA100-80GB", shares=2))).devices == 5


def test_what_not_even_all_hold_is_said_with_the_bytes() -> None:
    found = present(foresee("export", certified(LARGE, "lora", merged=True), lent("2xA100-80GB")))
    assert found.devices is None
    assert found.sentence == (
        "it cannot be certified: 282.2 GB of weights in float32 are more than the 171.8 GB of the 2 GPUs "
        "that one program may have here"
    )


def test_a_gpu_that_is_a_little_too_small_is_tried_alone() -> None:
    found = present(foresee("evaluation", asked(SMALL, "bfloat16"), lent("1xL4")))
    assert (found.devices, found.each_bytes) == (1, 0)


def test_of_unlike_gpus_those_with_room_are_counted_and_no_mig_instance_beside_another() -> None:
    small, large = Device("0", 24 * 10**9, "L4"), Device("1", 150 * 10**9, "H200")
    instance = Device("MIG-1", 150 * 10**9, "H200 MIG")
    held = asked(LARGE, "bfloat16")
    both = Judges((small, large, replace(large, id="2")), 3, 1, "bfloat16")
    assert present(foresee("evaluation", held, both)).devices == 2
    assert present(foresee("evaluation", asked(SMALL, "bfloat16"), both)).devices == 1
    cut = Judges((instance, replace(instance, id="MIG-2")), 2, 1, "bfloat16")
    assert present(foresee("evaluation", held, cut)).devices == 1  # tight: 141 GB of 150
    assert present(foresee("evaluation", asked(LARGE, "float32"), cut)).devices is None


def test_without_a_known_memory_nothing_is_predicted() -> None:
    unknown = Judges((Device("0", None, "GPU (declared)"),), 1, 1, "bfloat16")
    assert foresee("evaluation", asked(SMALL, "bfloat16"), unknown) is None
    assert foresee_all(SMALL, "lora", unknown, merged=True) == ()


def test_experts_lie_with_their_layers_and_are_no_part_that_stays_whole() -> None:
    shape = [64, 4096, 4096]
    experts = Tensors({"experts.gate_up_proj": [shape] * 32}, ["gate.weight"])
    more = LLAMA_8B["parameters"] + 32 * 64 * 4096 * 4096
    dense = asked(facts(), "bfloat16")
    mixture = asked(facts(parameters=more, tensors=experts), "bfloat16")
    assert mixture.weights - dense.weights == 2 * 32 * 64 * 4096 * 4096
    assert mixture.largest < (mixture.weights - dense.weights) / 16  # a layer, not all experts
