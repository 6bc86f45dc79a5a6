"""Memory here is a formula of this file, in round numbers, not the dry run."""

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.planning.estimate import ChangeRow
from ft_dagster.planning.layout import Layout
from ft_dagster.planning.methods.changes import KINDS, Change, changes
from ft_dagster.planning.methods.sharding import is_sharded
from ft_dagster.spec import VariantSpec
from tests.planning.llama import spec

BASE = {"full": 160, "lora": 22, "lora_8bit": 14, "qlora": 9, "prompt_tuning": 20, "prefix_tuning": 20}
DECLARED = Layout("lora", micro_batch=8, gradient_checkpointing=False, length=1024)


def bytes_of(layout: Layout) -> int:
    """GB: what the method holds, divided by ZeRO; 4 for a row of 1024 tokens, a quarter of it recomputed."""
    held = float(BASE[layout.method])
    if layout.zero_stage == 3:
        held = held / layout.gpus
    elif layout.zero_stage == 2:
        held = held / 8 + 7 * held / 8 / layout.gpus
    if layout.offload == "cpu":
        held = held / 5
    rows = layout.micro_batch * layout.length / 1024 * (1 if layout.gradient_checkpointing else 4)
    return round((held + rows) * 1e9)


def found(layout: Layout, gigabytes: float, **more: Any) -> tuple[Change, ...]:
    return changes(layout, bytes_of, int(gigabytes * 1e9), **more)


def fields(change: Change) -> dict[str, Any]:
    return {setting.field: setting.value for setting in change.settings}


def test_what_fits_needs_no_change() -> None:
    assert found(DECLARED, 54) == ()


def test_a_smaller_micro_batch_hurts_least_and_the_largest_that_fits_is_named() -> None:
    first = found(DECLARED, 40)[0]
    assert fields(first) == {"training.per_device_train_batch_size": 4}
    assert first.bytes_after == 38_000_000_000
    assert "accumulate 2 times as often" in first.hurts


def test_then_checkpointing_then_length() -> None:
    alone = found(replace(DECLARED, micro_batch=1, length=4096), 27)
    assert [fields(change) for change in alone[:2]] == [
        {"training.gradient_checkpointing": True},
        {"training.max_length": 1024},
    ]
    assert "20-40% slower" in alone[0].hurts
    assert "rows above 1024 of 4096 tokens are truncated" in alone[1].hurts


def test_the_longest_length_that_fits_is_named() -> None:
    layout = replace(DECLARED, micro_batch=1, length=4096, gradient_checkpointing=True)
    assert fields(found(layout, 25.1)[0]) == {"training.max_length": 3072}


def test_two_mild_changes_come_before_one_that_hurts_more() -> None:
    first, second = found(DECLARED, 24)[:2]
    assert fields(first) == {
        "training.per_device_train_batch_size": 2,
        "training.gradient_checkpointing": True,
    }
    assert "training.max_length" in fields(second) or "method.name" in fields(second)


def test_the_nearest_method_that_fits_is_named() -> None:
    layout = replace(DECLARED, micro_batch=1, length=128, gradient_checkpointing=True)
    assert fields(found(layout, 15)[0]) == {"method.name": "lora_8bit"}
    assert fields(found(layout, 10)[0]) == {"method.name": "qlora"}


SMALLEST = Layout("full", micro_batch=1, gradient_checkpointing=True, length=128)


def test_full_that_teaches_behaviour_is_offered_lora() -> None:
    first = found(SMALLEST, 30)[0]
    assert fields(first) == {"method.name": "lora"}
    assert "facts perhaps not" in first.hurts


def test_full_that_teaches_facts_is_offered_gpus_before_an_adapter() -> None:
    offered = [fields(change) for change in found(SMALLEST, 45, teaches_facts=True)]
    assert offered[0] == {"training.deepspeed.stage": 3, "training.deepspeed.offload": "cpu"}
    assert offered[1] == {"training.deepspeed.stage": 3, "resources.gpus": 4}
    assert offered[-1] == {"method.name": "lora"}


def test_several_gpus_are_sharded_before_more_are_asked_for() -> None:
    layout = replace(SMALLEST, gpus=4)
    first = found(layout, 70, teaches_facts=True)[0]
    assert fields(first) == {"training.deepspeed.stage": 2}
    assert fields(found(layout, 45, teaches_facts=True)[0]) == {"training.deepspeed.stage": 3}


def test_the_fewest_gpus_are_named() -> None:
    layout = replace(SMALLEST, gpus=2, zero_stage=3, offload="cpu")
    (change,) = found(layout, 12, teaches_facts=True, most=1)
    assert fields(change) == {"resources.gpus": 3}
    assert "3 GPUs where 2 are declared" in change.hurts


def test_no_more_gpus_are_asked_for_than_there_are() -> None:
    offered = found(SMALLEST, 25, teaches_facts=True, most_gpus=4, most=50)
    assert offered
    assert all(fields(change).get("resources.gpus", 1) <= 4 for change in offered)


def test_copies_are_not_helped_by_more_gpus_or_a_stage_they_cannot_have() -> None:
    layout = Layout("lora_8bit", 1, True, 128)
    offered = [change.layout for change in found(layout, 12, most=50)]
    assert offered
    for changed in offered:
        assert changed.method != "lora_8bit"
        assert is_sharded(changed.method) or (changed.zero_stage, changed.gpus) == (0, 1)
    assert found(Layout("qlora", 1, True, 128, gpus=2), 0.2, most_gpus=64) == ()


def test_a_prefix_is_never_told_to_recompute() -> None:
    for change in found(Layout("prefix_tuning", 4, False, 1024), 30, most=50):
        assert not (change.layout.method == "prefix_tuning" and change.layout.gradient_checkpointing)


def test_where_nothing_helps_nothing_is_offered() -> None:
    assert found(SMALLEST, 0.01) == ()


@pytest.mark.parametrize("gigabytes", [6, 10, 14, 20, 24, 30, 40, 50])
@pytest.mark.parametrize("method", ["full", "lora", "qlora", "lora_8bit", "prompt_tuning"])
@pytest.mark.parametrize("teaches_facts", [False, True])
def test_each_change_makes_it_pass_by_itself(method: str, gigabytes: int, teaches_facts: bool) -> None:
    layout = replace(DECLARED, method=method)
    for change in found(layout, gigabytes, teaches_facts=teaches_facts):
        assert bytes_of(change.layout) == change.bytes_after <= gigabytes * 1e9
        assert change.settings


@pytest.mark.parametrize("gigabytes", [6, 10, 14, 20, 24, 30, 40, 50])
def test_no_change_holds_more_than_an_earlier_one_did(gigabytes: int) -> None:
    offered = [set(fields(change)) for change in found(DECLARED, gigabytes, most=50)]
    for place, later in enumerate(offered):
        assert not any(earlier < later for earlier in offered[:place])


@pytest.mark.parametrize("gigabytes", [0.01, 10, 24, 40])
def test_few_layouts_are_measured_and_each_once(gigabytes: float) -> None:
    seen = []

    def counted(layout: Layout) -> int:
        seen.append(layout)
        return bytes_of(layout)

    changes(DECLARED, counted, int(gigabytes * 1e9))
    assert len(seen) == len(set(seen)) < 300


@pytest.mark.parametrize("gigabytes", [6, 14, 24, 40])
@pytest.mark.parametrize("method", ["full", "lora", "prompt_tuning"])
def test_a_change_is_written_in_fields_that_the_declaration_has(method: str, gigabytes: int) -> None:
    declared = spec(method=method)
    for change in found(replace(DECLARED, method=method), gigabytes, most=50):
        for field, value in fields(change).items():
            assert written(declared, field, value)


def written(declared: VariantSpec, field: str, value: Any) -> bool:
    """The value as it stands in the declaration once `field` is written."""
    tree = declared.model_dump(mode="json")
    inner = tree
    *path, last = field.split(".")
    for name in path:
        inner = inner[name]
    assert last in inner
    inner[last] = value
    return type(declared).model_validate(tree) is not None


def test_a_change_reads_as_it_is_written() -> None:
    first = found(DECLARED, 24)[0]
    assert first.sentence().startswith(
        "training.per_device_train_batch_size: 2 and training.gradient_checkpointing: true (24.0 GB a device"
    )
    assert ChangeRow.of(first).settings == fields(first)


def test_the_kinds_are_in_the_order_of_how_little_they_hurt() -> None:
    assert KINDS == ("micro_batch", "checkpointing", "length", "method", "zero_stage", "offload", "gpus")
