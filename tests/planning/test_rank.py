"""`method.rank: auto`: by what is to be learned, and by what the version before used of its rank."""

from __future__ import annotations

from typing import Any

import pytest

from ft_dagster.planning.before import VersionBefore
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods.rank import LARGEST, chosen_rank
from ft_dagster.planning.shapes import adapter_parameters
from ft_dagster.planning.survey import lora_settings, resolve
from ft_dagster.training.contract import LoraSettings
from tests.planning.llama import LLAMA_8B, facts, plan, reason, spec

AUTO = {"name": "lora", "rank": "auto"}
EACH = adapter_parameters(LLAMA_8B["linear_shapes"], 1, "all-linear")  # parameters of one rank
ALL = "all-linear"


def chosen(given: Facts, before: VersionBefore | None = None, objective: str = "instruction") -> Any:
    return chosen_rank("lora", given, objective, ALL, before)


def before(rank: int, spectrum: Any, targets: Any = ALL) -> VersionBefore:
    return VersionBefore(rank=rank, target_modules=targets, spectrum=spectrum)


def learning(tokens: int) -> Facts:
    return facts(tokens=2 * tokens, trained_tokens=tokens)


def test_the_usual_rank_holds_while_it_has_a_parameter_for_each_trained_token() -> None:
    found = chosen(learning(16 * EACH))
    assert (found.value, found.origin) == (16, "built-in")
    assert found.reason.startswith("rule: 400 examples")
    assert found.reason.endswith(f"it has a parameter for each of {16 * EACH:,} trained tokens")


def test_more_tokens_than_that_ask_for_a_higher_rank() -> None:
    found = chosen(learning(16 * EACH + 1))
    assert (found.value, found.origin) == (32, "built-in")
    assert found.reason.startswith(f"rule: a parameter for each of {16 * EACH + 1:,} trained tokens")
    assert found.reason.endswith("; else 16")


def test_the_rank_it_picks_is_not_warned_of_unless_none_is_enough() -> None:
    """The warning's own rule, for the rank that is picked and for the one before it."""
    tokens = 40 * EACH

    def lacking(rank: Any) -> list[str]:
        made = plan({"name": "lora", "rank": rank}, learning(tokens))
        return [line for line in made["warnings"] if "fewer parameters than tokens" in line]

    assert lacking(32)
    assert not lacking("auto")
    assert plan(AUTO, learning(tokens))["method"]["rank"] == 64


def test_an_objective_that_has_a_rank_of_its_own_has_at_least_that() -> None:
    assert chosen(learning(EACH), objective="domain_knowledge").value == 64
    assert chosen(learning(100 * EACH), objective="domain_knowledge").value == LARGEST


@pytest.mark.parametrize(("rank", "value", "floor"), [(64, 64, True), (128, 64, False), (16, 16, True)])
def test_nor_does_a_spectrum_take_less_where_the_objective_has_a_rank_of_its_own(
    rank: int, value: int, floor: bool
) -> None:
    found = chosen(learning(EACH), before(rank, "collapsed"), objective="domain_knowledge")
    assert (found.value, found.origin) == (value, "measured")
    assert ("no step down goes below the objective's 64" in found.reason) == floor


def test_no_more_than_is_usual_is_taken_and_what_would_suffice_is_said() -> None:
    found = chosen(learning(300 * EACH))
    assert found.value == LARGEST
    assert f"would take rank 512; {LARGEST} is the most that is taken" in found.reason


def test_nor_more_than_the_smallest_layer_allows() -> None:
    shapes = {"q_proj": [[64, 64]], "k_proj": [[24, 64]]}
    small = facts(linear_shapes=shapes, tokens=10**6, trained_tokens=10**6)
    assert chosen(small).value == 24
    assert chosen(small, before(24, "flat")).value == 24
    assert "24 is the most that is taken" in chosen(small, before(24, "flat")).reason


@pytest.mark.parametrize(
    ("spectrum", "rank", "value", "said"),
    [
        ("flat", 16, 32, "used all of it alike (flat spectrum)"),
        ("flat", 100, LARGEST, "used all of it alike (flat spectrum)"),
        ("flat", 256, 256, "is the most that is taken"),
        ("collapsed", 16, 8, "used a quarter of it at most (rank collapse)"),
        ("collapsed", 3, 1, "used a quarter of it at most (rank collapse)"),
        ("fits", 12, 12, "used more than a quarter of it, not all alike: it fits"),
    ],
)
def test_the_spectrum_of_the_version_before_moves_it_by_one_step(
    spectrum: str, rank: int, value: int, said: str
) -> None:
    found = chosen(learning(300 * EACH), before(rank, spectrum))
    assert (found.value, found.origin) == (value, "measured")
    assert found.reason.startswith(f"measured: the version before, of rank {rank},")
    assert said in found.reason


@pytest.mark.parametrize("known", [None, before(64, None), before(64, "flat", ["q_proj"]), VersionBefore()])
def test_a_version_before_that_says_nothing_of_these_layers_leaves_the_rule(
    known: VersionBefore | None,
) -> None:
    assert chosen(learning(EACH), known) == chosen(learning(EACH))


def test_the_plan_has_the_rank_with_its_reason_and_alpha_stays() -> None:
    made = plan(AUTO, learning(40 * EACH))
    assert (made["method"]["rank"], made["method"]["alpha"]) == (64, 32.0)
    assert reason(made, "method.rank")["reason"].startswith("rule: ")
    known = resolve(spec(method=AUTO), learning(EACH), before(16, "flat"))
    assert isinstance(known.method, LoraSettings)
    assert (known.method.rank, known.method.alpha) == (32, 32.0)
    assert known.reasons.of("method.rank").origin == "measured"


def test_a_declared_rank_and_one_that_is_left_out_are_as_they_were() -> None:
    known = before(16, "flat")
    for rank, value, origin in ((8, 8, "declaration"), (None, 16, "built-in")):
        made = resolve(spec(method={"name": "lora", "rank": rank}), learning(300 * EACH), known)
        assert made.reasons.of("method.rank").value == value
        assert made.reasons.of("method.rank").origin == origin


def test_beside_a_method_that_is_open_it_does_not_make_it_lora() -> None:
    assert lora_settings(spec(method={"rank": "auto"})) == []
    assert lora_settings(spec(method={"rank": "auto", "dropout": 0.0})) == ["dropout"]
