"""A plan as a whole, by the dry run of a small Llama: what `auto` comes to, what fits, what it was told."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.inventory import Device
from ft_dagster.methods.full import FullSettings
from ft_dagster.planning.cost.learned import (
    Finished,
    Predicted,
    finished_training,
    memory_correction,
    utilizations,
)
from ft_dagster.planning.cost.training_cost import Utilization
from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.judging import Judges
from ft_dagster.planning.layout import Layout
from ft_dagster.planning.methods.resolved import with_method
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.report.sentences.summaries import plan_summary
from ft_dagster.report.tables.recommendation import cost_rows
from ft_dagster.spec import VariantSpec
from ft_dagster.training.training_figures import TrainingFigures
from tests.planning.llama import SMALL_LLAMA, reason, spec
from tests.present import present
from tests.stored_figures import stored_training

pytestmark = pytest.mark.slow

ROOMY, TIGHT = 2_000_000_000, 560_000_000  # bytes of a device; 500 MB are CUDA's context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small-llama")
    (folder / "config.json").write_text(json.dumps(SMALL_LLAMA))
    return folder


def planned(
    folder: Path,
    declared: VariantSpec,
    *,
    count: int = 1,
    memory: int | None = ROOMY,
    known: Iterable[Finished] = (),
    **more: Any,
) -> PlanAndEstimate:
    hardware = Hardware("gpu", count, "T4-like", memory, 1e13, True, 1.0)
    given = facts(
        shapes_of_configuration(folder / "config.json"), examples=400, tokens=100_000, max_length=256,
        device_kind="cuda", ranks=count, device_memory=memory, bf16=True,
    )  # fmt: skip
    given = replace(given, **{k: v for k, v in more.items() if hasattr(given, k)})
    setting = PlanContext(
        folder,
        hardware,
        base="b" * 64,
        finished=tuple(known),
        variants=more.get("variants", 1),
        judges=more.get("judges"),
    )
    return make_plan(declared, given, setting)


def test_auto_teaches_behaviour_by_lora(folder: Path) -> None:
    plan = planned(folder, spec(objective="instruction"))
    assert plan.content.method.name == plan.estimate.method == "lora"
    why = reason(plan.estimate.to_json()["plan"], "method.name")
    assert why["origin"] == "built-in"
    assert "instruction: behaviour and format" in why["reason"]


def test_auto_teaches_a_small_base_one_narrow_task_by_full(folder: Path) -> None:
    plan = planned(folder, spec(objective="task_specific", evaluation={"kind": "json"}))
    assert plan.content.method.name == "full"
    why = reason(plan.estimate.to_json()["plan"], "method.name")["reason"]
    assert "lora by narrow_task" in why


def test_auto_keeps_a_declared_rate_and_a_declared_method_of_another_family_has_its_own(folder: Path) -> None:
    plan = planned(folder, spec(training={"learning_rate": 1.23e-4}))
    assert plan.content.method.name == "lora"
    assert plan.content.training.learning_rate == 1.23e-4
    assert reason(plan.estimate.to_json()["plan"], "training.learning_rate")["origin"] == "declaration"
    declared = spec(method={"name": "lora"}, training={"learning_rate": 1.23e-4})
    assert with_method(declared, "qlora").training.learning_rate == 1.23e-4
    assert with_method(declared, "full").training.learning_rate is None


def test_what_measuring_may_take_is_in_the_hours_and_the_default_in_no_digest(folder: Path) -> None:
    plain, half, unbounded = (
        planned(
            folder, spec(method="lora", evaluation={"limit": 1, "general": []}, training={"watch": watch})
        )
        for watch in ({}, {"budget": 0.5}, {"budget": None})
    )
    hours = [present(plan.estimate.predicted.hours) for plan in (unbounded, plain, half)]
    trained = (hours[2] - hours[0]) / 0.5
    assert hours[1] == pytest.approx(hours[0] + 0.1 * trained, rel=1e-6)
    assert 0.9 * hours[0] < trained <= hours[0]
    assert "budget" not in plain.content.to_json()["training"]["watch"]
    assert half.content.to_json()["training"]["watch"]["budget"] == 0.5
    assert unbounded.content.to_json()["training"]["watch"]["budget"] is None
    why = reason(plain.estimate.to_json()["plan"], "training.watch.budget")
    assert (why["value"], why["origin"]) == (0.1, "built-in")
    assert "losses on a sample" in why["reason"]


@pytest.mark.long
def test_auto_teaches_knowledge_by_full_where_it_fits(folder: Path) -> None:
    plan = planned(folder, spec(objective="domain_knowledge"))
    assert plan.content.method == FullSettings()
    assert plan.content.training.num_train_epochs == 1.0
    assert not any("style is learned" in line for line in plan.estimate.warnings)


@pytest.mark.long
def test_auto_teaches_knowledge_by_an_adapter_out_loud_where_full_does_not_fit(folder: Path) -> None:
    plan = planned(folder, spec(objective="domain_knowledge"), memory=TIGHT)
    assert plan.content.method.name == "lora"
    assert "style is learned" in plan.estimate.warnings[0]
    full = next(row for row in plan.estimate.ranking if row.method == "full")
    assert not full.fits


def test_auto_with_settings_of_lora_is_lora(folder: Path) -> None:
    plan = planned(folder, spec(objective="domain_knowledge", method={"dropout": 0.0}))
    assert plan.content.method.name == "lora"
    assert "dropout declared" in reason(plan.estimate.to_json()["plan"], "method.name")["reason"]


def test_a_declared_method_that_ranks_lower_is_obeyed_and_the_difference_said(folder: Path) -> None:
    plan = planned(folder, spec(method="full", objective="instruction"))
    assert plan.content.method == FullSettings()
    assert plan.estimate.recommended == "lora"
    assert any("full is declared and obeyed; lora ranks first" in line for line in plan.estimate.warnings)


def test_a_variant_that_does_not_fit_names_changes_and_the_first_makes_it_fit(folder: Path) -> None:
    declared = {"method": "full", "objective": "domain_knowledge", "training": {"max_length": 256}}
    plan = planned(folder, spec(**declared), memory=TIGHT, ranks=1)
    assert not plan.fits
    first = dict(plan.estimate.changes[0].settings)
    count = first.pop("resources.gpus", 1)
    for field, value in first.items():
        put(declared, field.split("."), value)
    assert planned(folder, spec(**declared), count=count, memory=TIGHT).fits


@pytest.mark.parametrize("asked", [3, "auto"])
def test_a_limit_on_questions_that_zero_3_lets_nobody_ask_is_refused(folder: Path, asked: int | str) -> None:
    def declared(stage: int | str, **limit: float) -> VariantSpec:
        training = {"deepspeed": stage, "watch": {"questions": 20, **limit}}
        return spec(method="full", training=training)

    unknown: dict[str, Any] = {"count": 2, "memory": None}  # memory of a device: full is sharded whole
    with pytest.raises(UserError, match="no questions are asked") as caught:
        planned(folder, declared(asked, benchmark_limit=0.05), **unknown)
    assert (caught.value.field, caught.value.value) == ("training.watch.benchmark_limit", 0.05)
    assert "training.deepspeed: 0 or 2" in caught.value.fix
    for taken in (declared(2, benchmark_limit=0.05), declared(3, general_loss_limit=0.05)):
        assert planned(folder, taken, **unknown).content.training.watch.questions == 20


def test_an_unknown_device_memory_refuses_nothing(folder: Path) -> None:
    assert planned(folder, spec(method="full"), memory=None).fits


def test_a_mixture_without_trained_tokens_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="no trained token"):
        planned(folder, spec(), trained_tokens=0)


def test_neither_prices_nor_neighbours_nor_finished_trainings_are_in_what_is_keyed(folder: Path) -> None:
    one, other = planned(folder, spec()), planned(folder, spec(), variants=7)
    assert one.content == other.content
    assert one.estimate != other.estimate
    assert set(one.content.to_json()) == {"schema_version", "method", "training", "device", "ranks"}


def test_the_rule_of_thumb_stands_beside_with_what_it_leaves_out(folder: Path) -> None:
    (line,) = planned(folder, spec(method="lora")).estimate.cross_checks
    assert "rule of thumb" in line
    assert "context" in line


def put(tree: dict[str, Any], names: Sequence[str], value: Any) -> None:
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
    tree[names[-1]] = value


def trained(plan: PlanAndEstimate, more: int, seconds: float = 100.0, flops: float = 2e14) -> Finished:
    """A training that took so many bytes more than this plan predicted."""
    predicted = plan.estimate.predicted.to_json()
    reserved = predicted["memory_bytes"] + more
    figures = stored_training(
        predicted=predicted, peak_device_reserved_bytes=reserved, flops=flops, training_seconds=seconds
    )
    return present(finished_training(TrainingFigures.from_json(figures)))


def test_a_finished_training_corrects_the_next_plan_of_its_shape_and_says_so(folder: Path) -> None:
    before = planned(folder, spec(method="lora"))
    known = [trained(before, 40_000_000)]
    after = planned(folder, spec(method="lora"), known=known)
    own = before.estimate.predicted.memory_bytes
    assert after.estimate.plan.memory_bytes.correction == 40_000_000
    assert after.estimate.predicted.memory_bytes == own  # what is compared is the dry run's
    assert "1 finished training of this shape took 40 MB more" in after.estimate.plan.learned
    assert after.content == before.content


def test_a_finished_training_replaces_the_stated_utilization(folder: Path) -> None:
    before = planned(folder, spec(method="lora"))
    after = planned(folder, spec(method="lora"), known=[trained(before, 0)])
    assert present(before.estimate.utilization).origin == "default"
    learned = present(after.estimate.utilization)
    assert learned.value == pytest.approx(2e14 / (100 * 1e13))
    assert replace(learned, value=0) == Utilization(0, "learned", "from the tenant's finished trainings")


def test_planned_hours_are_those_that_a_training_of_the_same_layout_took(folder: Path) -> None:
    """By its tokens a second, whatever its FLOPs were counted as; of another layout by its utilization."""
    before = planned(folder, spec(method="lora"))
    quick = [replace(trained(before, 0), tokens_per_second=speed) for speed in (1000.0, 3000.0, 2000.0)]
    after = present(planned(folder, spec(method="lora"), known=quick).estimate.predicted.training_hours)
    again = planned(folder, spec(method="lora"), known=[replace(quick[0], tokens_per_second=4000.0)])
    assert after == pytest.approx(2 * present(again.estimate.predicted.training_hours))
    layout = replace(before.estimate.predicted.layout, length=4096)
    other = replace(quick[0], predicted=replace(quick[0].predicted, layout=layout))
    learned = planned(folder, spec(method="lora"), known=[other]).estimate.utilization
    assert present(learned).value == pytest.approx(2e14 / (100 * 1e13))


def test_another_shape_or_base_teaches_nothing(folder: Path) -> None:
    plan = planned(folder, spec(method="lora"))
    one, layout = trained(plan, 9), plan.estimate.predicted.layout
    assert memory_correction([one], "b" * 64, "T4-like", layout).added == 9
    for base, hardware, other in (
        ("c" * 64, "T4-like", layout),
        ("b" * 64, "H100", layout),
        ("b" * 64, "T4-like", replace(layout, method="full")),
        ("b" * 64, "T4-like", replace(layout, gradient_checkpointing=True)),
    ):
        assert memory_correction([one], base, hardware, other).added == 0


def test_of_several_trainings_the_median_counts_and_the_error_left_is_shown(folder: Path) -> None:
    plan = planned(folder, spec(method="lora"))
    layout = plan.estimate.predicted.layout
    known = [trained(plan, more) for more in (-5_000_000, 9_000_000, 20_000_000)]
    found = memory_correction(known, "b" * 64, "T4-like", layout)
    assert found.added == 9_000_000
    assert "they lay 25 MB apart" in found.sentence


def test_a_longer_row_is_corrected_by_shorter_ones_where_none_was_as_long(folder: Path) -> None:
    plan = planned(folder, spec(method="lora"))
    layout = replace(plan.estimate.predicted.layout, length=1024)
    found = memory_correction([trained(plan, 7_000_000)], "b" * 64, "T4-like", layout)
    assert found.added == 7_000_000
    assert "at another micro-batch or length" in found.sentence


def test_a_training_that_was_not_measured_teaches_nothing() -> None:
    assert finished_training(TrainingFigures.from_json(stored_training())) is None
    predicted = Predicted("b", "h", Layout("lora", 1, False, 256), 1000, None, None)
    figures = stored_training(predicted=predicted.to_json(), flops=5, training_seconds=1)
    one = present(finished_training(TrainingFigures.from_json(figures)))
    assert (one.excess, one.utilization) == (None, None)
    assert utilizations([one], "h") == {}


def test_the_plan_says_on_how_many_gpus_it_is_judged_and_what_none_hold(folder: Path) -> None:
    gpus = tuple(Device(str(number), 730_000_000, "GPU") for number in range(4))
    estimate = planned(folder, spec(method="lora"), judges=Judges(gpus, 4, 1, "bfloat16")).estimate
    evaluation, export = estimate.judged_on
    assert (evaluation.what, evaluation.devices, export.what, export.devices) == (
        "evaluation",
        3,
        "export",
        1,
    )
    assert ("judging", evaluation.sentence) in cost_rows(estimate)
    assert Estimate.from_json(json.loads(json.dumps(estimate.to_json()))) == estimate
    few = tuple(replace(each, memory_bytes=4_000_000) for each in gpus[:2])
    estimate = planned(folder, spec(method="lora"), judges=Judges(few, 2, 1, "bfloat16")).estimate
    assert [each.devices for each in estimate.judged_on] == [None, None]
    assert {each.sentence for each in estimate.judged_on} <= set(estimate.warnings)


def test_the_time_of_a_plan_says_in_the_same_words_everywhere_what_it_is_of(folder: Path) -> None:
    estimate = planned(folder, spec(method="lora")).estimate
    parts = replace(estimate.predicted, hours=0.5, training_hours=0.4)
    estimate = replace(estimate, predicted=parts)
    said = dict(cost_rows(estimate))["training and judging"]
    assert said.endswith("(training 24m 00s, judging 6m 00s; without loading, checkpoints and waiting)")
    assert f"training and judging {said}" in plan_summary(estimate, ()).what


def test_an_estimate_of_before_it_was_predicted_is_read(folder: Path) -> None:
    estimate = planned(folder, spec(method="lora")).estimate
    older = {name: value for name, value in estimate.to_json().items() if name != "judged_on"}
    assert Estimate.from_json(older) == estimate
