import math

import pytest

from ft_dagster.errors import UserError
from ft_dagster.gate.sequential_looks import expected_questions
from ft_dagster.planning.cost.published_costs import beside_published
from ft_dagster.planning.cost.serving import serve_adapters, serve_copies
from ft_dagster.planning.cost.training_cost import (
    Spent,
    Utilization,
    asking_in_batches,
    evaluation_cost,
    experiments,
    gate_questions,
    storage_cost,
    training_cost,
    unseen_margins,
    utilization_of,
)
from ft_dagster.planning.hardware.catalogue import of_cpu
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec
from tests.planning.llama import A100_80, METHODS
from tests.present import present

HALF = Utilization(0.5, "default", "for a round figure")


def a_training(gpus: int = 1, usd_per_hour: float | None = 2.0, peak: float | None = 1e12) -> Spent:
    return training_cost(1.8e14, 100, gpus=gpus, peak_flops=peak, usd_per_hour=usd_per_hour, utilization=HALF)


def test_hours_are_flops_over_what_the_gpus_achieve() -> None:
    spent = a_training()
    assert spent.flops == 1.8e16
    assert spent.hours == pytest.approx(10.0)
    assert spent.usd == pytest.approx(20.0)


def test_more_gpus_change_the_hours_and_not_the_money() -> None:
    assert a_training(gpus=4).hours == pytest.approx(2.5)
    assert a_training(gpus=4).usd == pytest.approx(20.0)


def test_without_a_price_there_is_time_and_no_money() -> None:
    spent = a_training(usd_per_hour=None)
    assert spent.hours == pytest.approx(10.0)
    assert spent.usd is None


def test_without_a_peak_there_is_neither() -> None:
    assert (a_training(peak=None).hours, a_training(peak=None).usd) == (None, None)


@pytest.mark.parametrize("method", METHODS)
def test_a_utilization_starts_from_a_stated_default_and_a_learned_one_replaces_it(method: str) -> None:
    assert utilization_of(method).origin == "default"
    assert utilization_of(method).reason
    learned = utilization_of(method, {method: 0.44})
    assert (learned.value, learned.origin) == (0.44, "learned")


def test_quantized_methods_are_slower_a_step_than_lora() -> None:
    share = {name: utilization_of(name).value for name in METHODS}
    assert share["lora_8bit"] < share["qlora"] < share["lora"]


@pytest.mark.parametrize("value", [0.0, -0.1])
def test_a_learned_utilization_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="share of the peak"):
        utilization_of("lora", {"lora": value})


def test_each_gate_says_how_many_questions_it_needs_and_what_those_asked_can_show() -> None:
    task, general = gate_questions(GatesSpec(task_margin=0.05), EvaluationSpec(limit=100, kind="label"))
    assert (task.needed, task.asked) == (362, 100)
    assert "evaluation.limit of 100 can show 10.3 points" in task.sentence
    assert present(general.needed) > present(task.needed)  # all four benchmarks must pass
    assert "in each of 4 benchmarks" in general.sentence


def test_a_gate_that_asks_enough_says_no_more() -> None:
    task, _ = gate_questions(GatesSpec(task_margin=0.05), EvaluationSpec(limit=400, kind="label"))
    assert "can show" not in task.sentence


def test_a_margin_of_zero_asks_for_an_improvement() -> None:
    task, _ = gate_questions(GatesSpec(), EvaluationSpec(kind="label"))
    assert task.needed is None
    assert "must be shown to be better" in task.sentence


def test_a_margin_that_the_questions_cannot_see_says_how_many_would() -> None:
    gates, asked = GatesSpec(general_margin=0.05), EvaluationSpec(limit=100, general=("arc_easy",))
    (said,) = unseen_margins(gates, asked)
    assert "raise evaluation.limit to 362, or allow more" in said
    assert unseen_margins(gates, EvaluationSpec(limit=362, general=("arc_easy",))) == ()
    assert unseen_margins(gates, EvaluationSpec(limit=None)) == ()


def test_a_margin_in_nats_is_said_to_need_no_number_of_answers() -> None:
    """Of a task that is judged by its loss; nor is one of benchmarks where none is asked."""
    gates = GatesSpec(task_margin=0.05, general_margin=0.05)
    assert gate_questions(gates, EvaluationSpec(limit=100, general=())) == ()
    (said,) = unseen_margins(gates, EvaluationSpec(limit=100, general=("arc_easy",)))
    assert said.startswith("gates.general_margin")


def test_fewer_test_rows_than_a_margin_needs_are_said_with_what_they_can_show() -> None:
    gates, asked = GatesSpec(task_margin=0.05), EvaluationSpec(limit=None, general=(), kind="label")
    (said,) = unseen_margins(gates, asked, test_rows=60)
    assert "needs 362 questions" in said
    assert "; 60 test rows can show 1" in said
    assert said.endswith("points: give as many test rows, or allow more")
    assert unseen_margins(gates, asked, test_rows=400) == unseen_margins(gates, asked) == ()
    limited = asked.model_copy(update={"limit": 50})
    (said,) = unseen_margins(gates, limited, test_rows=60)
    assert "evaluation.limit of 50 can show" in said
    tasks = limited.model_copy(update={"task": ("quiz",)})
    assert "evaluation.limit of 50" in unseen_margins(gates, tasks, test_rows=10)[0]


def test_asking_in_batches_says_what_is_expected_at_most_and_how_long_it_takes() -> None:
    gates, asked = GatesSpec(task_margin=0.05), EvaluationSpec(limit="auto", general=("arc_easy",))
    (said,) = asking_in_batches(gates, asked, seconds_per_question=0.6)
    each = math.ceil(expected_questions(0.05, alpha=0.025))
    assert 400 < each < 600
    assert f"about {each:,} questions of each benchmark" in said
    assert f"up to {2 * each:,} in all, about {math.ceil(2 * each * 0.6 / 60)} minutes" in said
    assert "at most 2,000 of each of 2 tasks" in said
    better = asking_in_batches(GatesSpec(), asked)[0]
    assert "the task by how much it got better" in better
    assert "in all (how long that takes, the first evaluation on this base tells); at most" in better
    assert asking_in_batches(gates, EvaluationSpec()) == ()


def test_the_margins_that_asking_in_batches_cannot_see_go_by_the_most_that_is_asked() -> None:
    asked = EvaluationSpec(limit="auto", general=("arc_easy",))
    assert unseen_margins(GatesSpec(general_margin=0.05), asked) == ()
    (said,) = unseen_margins(GatesSpec(general_margin=0.01), asked)
    assert "evaluation.limit of 2,000 can show" in said


def test_judging_counts_both_models() -> None:
    both = evaluation_cost(400, 200, 8_000_000_000, peak_flops=312e12, usd_per_hour=3.0)
    assert both.flops == 2 * 8e9 * 200 * 400 * 2


def test_ten_full_variants_of_7b_are_140_gb_and_ten_adapters_16() -> None:
    seven = 7_000_000_000
    assert storage_cost("full", seven, 2 * seven, variants=10).gigabytes == pytest.approx(140)
    assert storage_cost("lora", 40_000_000, 2 * seven, variants=10).gigabytes == pytest.approx(15.6)


def test_an_exact_resume_is_more_than_the_weights() -> None:
    kept = storage_cost("full", 7_000_000_000, 14_000_000_000, checkpoints=1).checkpoints_bytes
    assert kept == 84_000_000_000  # not the 14 GB of the weights alone


def test_a_merged_export_keeps_its_adapter() -> None:
    one = storage_cost("lora", 40_000_000, 14_000_000_000, variants=3, merged=True)
    assert one.artifacts_bytes == 3 * (14_000_000_000 + 160_000_000)


def test_storage_has_a_price() -> None:
    stored = storage_cost("full", 1_000_000_000, 2_000_000_000, variants=5, checkpoints=0)
    assert stored.usd_per_month == pytest.approx(10 * 0.023)


def test_a_candidate_takes_ten_to_twenty_trainings() -> None:
    tries = experiments(a_training(), a_training().times(0.2))
    assert tries.runs == (10, 20)
    assert tries.days == pytest.approx((5.0, 10.0))
    assert tries.middle_days == pytest.approx(7.5)
    assert tries.usd == pytest.approx((240, 480))


def test_experiments_of_unknown_hours_are_unknown() -> None:
    tries = experiments(a_training(peak=None))
    assert (tries.days, tries.usd, tries.middle_days) == (None, None, None)


def test_copies_take_a_server_each_and_adapters_share_one() -> None:
    copies, shared = (
        serve_copies(16_000_000_000, 10, A100_80),
        serve_adapters(16_000_000_000, 42_000_000, 10, A100_80),
    )
    assert (copies.gpus, copies.memory_bytes) == (3, 192_000_000_000)
    assert (shared.gpus, shared.memory_bytes) == (1, 20_040_000_000)
    assert "4 on a GPU" in copies.sentence
    assert "10 adapters of 168.0 MB in fp32 (84.0 MB loaded in bf16)" in shared.sentence


def test_a_model_too_large_for_a_gpu_is_spread() -> None:
    served = serve_copies(141_000_000_000, 2, A100_80)
    assert served.gpus == 6
    assert "each over 3 GPUs" in served.sentence


def test_a_host_without_a_gpu_is_called_a_host() -> None:
    one = serve_copies(16_000_000_000, 2, A100_80, device=of_cpu(2).unit)
    shared = serve_adapters(16_000_000_000, 42_000_000, 10, A100_80, device=of_cpu(2).unit)
    assert one.sentence.endswith("2 on a host: 1 host")
    assert shared.sentence.endswith(": 1 host")


def test_what_fills_the_gpus_exactly_takes_no_gpu_more() -> None:
    assert serve_copies(75_000_000_000, 1, 100_000_000_000).gpus == 1
    assert serve_copies(150_000_000_000, 1, 100_000_000_000).gpus == 2
    assert serve_copies(37_500_000_000, 4, 100_000_000_000).gpus == 2


def test_serving_on_an_unknown_gpu_is_a_memory_and_no_count() -> None:
    served = serve_adapters(16_000_000_000, 42_000_000, 10, None)
    assert (served.gpus, served.memory_bytes) == (None, 20_040_000_000)


SEVEN = 6_738_000_000


def test_the_rule_of_thumbs_tenfold_gap_stands_beside_the_counted_one_with_the_reason() -> None:
    full = present(beside_published("full", SEVEN, 8 * SEVEN, 512))
    lora = present(beside_published("lora", SEVEN, 6 * SEVEN, 512))
    assert full.published_usd == (150, 300)
    assert 1.0 < present(full.counted.usd) / present(lora.counted.usd) < 1.6
    assert "1.5 times" in present(full.reason)
    assert "the rule of thumb says $150 to $300, counted FLOPs $32" in full.sentence()


def test_qlora_is_never_counted_cheaper_a_step_than_lora() -> None:
    lora, qlora = (present(beside_published(name, SEVEN, 6 * SEVEN, 512)) for name in ("lora", "qlora"))
    assert present(qlora.counted.usd) > present(lora.counted.usd)
    assert "slower a step" in present(qlora.reason)


def test_a_counted_figure_within_the_rule_of_thumb_has_no_reason() -> None:
    lora = present(beside_published("lora", SEVEN, 6 * SEVEN, 400))
    assert lora.reason is None
    assert 15 <= present(lora.counted.usd) <= 30


def test_a_size_or_method_that_the_rule_of_thumb_has_not_has_no_row() -> None:
    assert beside_published("full", 34_000_000_000, 2e11, 512) is None
    assert beside_published("lora_8bit", SEVEN, 4e10, 512) is None
