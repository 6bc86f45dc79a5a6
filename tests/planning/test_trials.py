"""What the trainings of a probe come to. Nothing is trained here."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from scipy.stats import ttest_rel

from ft_dagster.errors import UserError
from ft_dagster.planning.paired_losses import difference
from ft_dagster.planning.trials import Arm, ProbeResult, TriedArm, conclude, finalists, tried_arm
from ft_dagster.strict_json import finite
from ft_dagster.training.training_figures import TrainingFigures
from tests.planning.tried import tried
from tests.present import present
from tests.stored_figures import stored_training


def test_the_two_best_are_tried_for_longer() -> None:
    first = [tried("lora", 2e-4, 1.3), tried("full", 2e-5, 1.1), tried("lora", 6e-4, 1.2)]
    assert finalists(first, None) == [Arm("full", 2e-5), Arm("lora", 6e-4)]
    assert finalists(first[:2], None) == []
    assert (
        finalists([tried("lora", 2e-4, 1.3), tried("full", 2e-5, None), tried("lora", 1.0, None)], None) == []
    )


def test_what_forgets_more_than_is_allowed_comes_after_what_does_not() -> None:
    first = [tried("lora", 6e-4, 0.9, rise=0.3), tried("lora", 2e-4, 1.2, rise=0.05)]
    assert conclude([first], 0.1).learning_rate == 2e-4
    assert conclude([first], None).learning_rate == 6e-4
    over = [tried("lora", 6e-4, 0.9, rise=0.3), tried("lora", 2e-4, 1.2, rise=0.2)]
    assert (
        conclude([over], 0.1).learning_rate == 2e-4
    )  # the least that is forgotten, where all forget too much


def test_where_all_forget_too_much_for_longer_what_did_not_before_is_taken() -> None:
    first = [
        tried("lora", 6e-4, 1.2, rise=0.08), tried("full", 6e-5, 1.3, rise=0.09),
        tried("lora", 2e-4, 1.5, rise=0.02), tried("full", 2e-5, 1.6, rise=0.01),
    ]  # fmt: skip
    last = [tried("lora", 6e-4, 1.0, rise=0.15), tried("full", 6e-5, 1.1, rise=0.2)]
    found = conclude([first, last], 0.1)
    assert (found.method, found.learning_rate) == ("lora", 2e-4)  # not one that forgets too much soon after
    assert "lora at 0.0006, full at 6e-05 forgot too much or failed when tried for longer" in found.sentence
    assert conclude([first, last], 0.18).learning_rate == 6e-4
    none = conclude([first[:2], last], 0.1)
    assert (none.method, none.learning_rate) == ("lora", 6e-4)  # the least that is forgotten
    failed = [tried("lora", 6e-4, None), tried("full", 6e-5, None)]
    assert conclude([first, failed], 0.1).learning_rate == 2e-4
    past = [tried("lora", 2e-4, 1.5, rise=0.2)]
    found = conclude([[*first[:2], *past], failed], 0.1)
    assert found.learning_rate == 2e-4  # it forgets too much, but neither failed
    assert "lora at 0.0006, full at 6e-05 forgot too much or failed when tried for longer" in found.sentence


def test_forgetting_that_nobody_measured_is_said() -> None:
    found = conclude([[tried("lora", 2e-4, 1.2, rise=None), tried("full", 2e-5, 1.3, rise=None)]], 0.1)
    assert found.method == "lora"
    assert "; what is forgotten was not measured: there is no general text" in found.sentence
    assert "not measured" not in conclude([[tried("lora", 2e-4, 1.2)]], 0.1).sentence


def test_an_arm_whose_loss_on_general_text_is_no_number_has_failed() -> None:
    lost = {"general_holdout_loss_first": 3.0, "general_holdout_loss_last": math.nan}
    stored = finite(stored_training(validation_loss_on={"8": 1.5}, **lost))
    arm = tried_arm(Arm("lora", 2e-4), 20, TrainingFigures.from_json(stored))
    assert arm.failed == "no finite loss on general text came of it"


def apart(method: str, rate: float, losses: list[float], *, rise: float = 0.0) -> TriedArm:
    """An arm by what each of its examples lost, of two tokens each."""
    mean = sum(losses) / (2 * len(losses))
    arm = tried(method, rate, mean, rise=rise, on=len(losses))
    return replace(arm, examples=tuple((loss, 2) for loss in losses))


SPREAD = [1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0, 5.0]  # far more than any two arms differ


def all_less(by: float) -> list[float]:
    """Less by about so much on each example."""
    return [loss - by + 0.01 * (-1) ** at for at, loss in enumerate(SPREAD)]


def here_and_there(by: float) -> list[float]:
    """As much less in the mean, half of it for the better and half for the worse."""
    return [loss - by + 2.0 * (-1) ** at for at, loss in enumerate(SPREAD)]


def test_a_difference_is_that_of_the_same_examples_with_its_interval() -> None:
    one, other = all_less(0.2), SPREAD
    found = present(difference([(loss, 1) for loss in one], [(loss, 1) for loss in other], len(SPREAD)))
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(-0.2)
    long = [(10.0, 100), (1.0, 1)], [(20.0, 100), (3.0, 1)]
    assert present(difference(*long, 2)).value == pytest.approx(-12 / 101)  # a token counts as any other
    assert difference([], [(1.0, 1)] * 8, 8) is None
    assert difference([(1.0, 1)], [(2.0, 1)], 1) is None


def test_what_is_usual_holds_unless_another_arm_is_shown_to_be_better() -> None:
    usual = apart("lora", 2e-4, SPREAD)
    better = conclude([[usual, apart("lora", 6e-4, all_less(0.2))]], None)
    assert better.learning_rate == 6e-4
    assert "; lora at 0.0006 less lora at 0.0002 is -0.100 nats a token (95% interval -0.1" in better.sentence
    chance = conclude([[usual, apart("lora", 6e-4, here_and_there(0.2))]], None)
    assert chance.learning_rate == 2e-4
    assert "; lora at 0.0002, which is usual, holds: lora at 0.0006 less it is -0.100 nats" in chance.sentence
    assert chance.sentence.count("95% interval") == 1
    forgets = replace(usual, general_rise=0.3)
    assert conclude([[forgets, apart("lora", 6e-4, here_and_there(0.2))]], 0.1).learning_rate == 6e-4


def test_what_is_usual_is_held_against_the_best_where_both_were_tried_last() -> None:
    usual, others = apart("lora", 2e-4, SPREAD), [apart("full", 2e-5, all_less(0.1))]
    for losses, taken in ((all_less(0.2), 6e-4), (here_and_there(0.2), 2e-4)):
        first = [usual, *others, apart("lora", 6e-4, losses)]
        last = [apart("full", 2e-5, all_less(0.3)), apart("lora", 6e-4, all_less(0.4))]
        assert conclude([first, last], None).learning_rate == taken
    first = [usual, *others, apart("lora", 6e-4, all_less(0.2))]
    last = [apart("lora", 6e-4, here_and_there(0.2)), usual]
    assert conclude([first, last], None).learning_rate == 2e-4


def test_what_examples_lost_is_kept() -> None:
    found = conclude([[apart("lora", 2e-4, SPREAD), apart("full", 2e-5, all_less(0.2))]], None)
    assert ProbeResult.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_probe_of_the_first_schema_is_read() -> None:
    arm = {
        "method": "lora", "learning_rate": 2e-4, "steps": 20, "validation": {"8": 1.5}, "general_rise": 0.01,
        "flops": 1e12, "failed": None,
    }  # fmt: skip
    found_then = {"method": "lora", "learning_rate": 2e-4, "sentence": "s", "rounds": [[arm]]}
    read = ProbeResult.from_json({"schema_version": 1, **found_then})
    assert read.rounds[0][0] == TriedArm("lora", 2e-4, 20, {"8": 1.5}, 0.01, 1e12)


def test_a_probe_of_the_second_schema_is_read() -> None:
    arm = {
        "method": "lora", "learning_rate": 2e-4, "steps": 20, "validation": {"8": 1.5}, "general_rise": 0.01,
        "flops": 1e12, "failed": None, "rank": 8, "examples": [[1.5, 4], [1.25, 2]],
    }  # fmt: skip
    found_then = {"method": "lora", "learning_rate": 2e-4, "sentence": "s", "rank": 8, "rounds": [[arm]]}
    (tried,) = ProbeResult.from_json({"schema_version": 2, **found_then}).rounds[0]
    assert tried == TriedArm("lora", 2e-4, 20, {"8": 1.5}, 0.01, 1e12, None, ((1.5, 4), (1.25, 2)))


def test_figures_of_examples_are_those_that_the_losses_are_of() -> None:
    stored = finite(
        stored_training(
            validation_loss_on={"8": 1.0, "16": math.inf},
            validation_by_example=[[2.0, 2]] * 8 + [[math.inf, 2]] + [[2.0, 2]] * 7,
        )
    )
    arm = tried_arm(Arm("lora", 2e-4), 20, TrainingFigures.from_json(stored))
    assert arm.examples == ((2.0, 2),) * 8


def test_losses_are_compared_on_as_many_examples_as_all_measured() -> None:
    few = TriedArm("full", 2e-5, 20, {"8": 2.0}, 0.0)
    many = TriedArm("lora", 2e-4, 20, {"8": 2.1, "32": 1.0}, 0.0)
    found = conclude([[few, many]], None)
    assert found.method == "full"
    assert "full at 2e-05 2.000 on 8 examples" in found.sentence


def test_the_last_round_decides_and_what_diverged_is_named() -> None:
    first = [tried("lora", 2e-4, 1.0), tried("lora", 6e-4, 1.1), tried("lora", 2e-3, None)]
    found = conclude([first, [tried("lora", 2e-4, 0.9), tried("lora", 6e-4, 0.8)]], None)
    assert (found.method, found.learning_rate) == ("lora", 6e-4)
    assert found.sentence.endswith("lora at 0.002 diverged or failed")
    assert ProbeResult.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_where_all_diverge_the_way_out_is_said() -> None:
    with pytest.raises(UserError, match="every method and rate that was tried failed") as error:
        conclude([[tried("lora", 2e-4, None), tried("full", 2e-5, None)]], None)
    assert error.value.field == "plan.probe"
    assert "declare method and training.learning_rate" in error.value.fix


def test_losses_that_are_not_finite_are_none_and_an_arm_without_any_is_out() -> None:
    stored = finite(stored_training(validation_loss_on={"8": 1.5, "16": math.inf}))
    some = tried_arm(Arm("lora", 2e-4), 20, TrainingFigures.from_json(stored))
    assert (some.validation, some.failed) == ({"8": 1.5}, None)
    stored = finite(stored_training(validation_loss_on={"8": math.nan}))
    none = tried_arm(Arm("full", 2e-5), 20, TrainingFigures.from_json(stored))
    assert none.failed == "no finite validation loss came of it"
    assert conclude([[none, some]], None).method == "lora"


def test_a_result_of_a_newer_version_is_refused() -> None:
    content = {**ProbeResult(None, None, "nothing").to_json(), "schema_version": 99}
    with pytest.raises(UserError, match="newer"):
        ProbeResult.from_json(content)


def test_of_whole_trainings_the_best_is_taken() -> None:
    arms = [apart("lora", 2e-4, SPREAD), apart("lora", 6e-4, here_and_there(0.2))]
    assert conclude([arms], None).learning_rate == 2e-4
    found = conclude([arms], None, wholly=True)
    assert found.learning_rate == 6e-4
    assert found.sentence.startswith("trained wholly, in 20 steps: lora at 0.0006 ")
    assert "lora at 0.0006 less lora at 0.0002 is -0.100 nats a token (95% interval " in found.sentence
    forgetful = [arms[0], replace(arms[1], general_rise=0.2)]
    assert conclude([forgetful], 0.1, wholly=True).learning_rate == 2e-4
