"""What a platform allows: floors, who set them, and what a declaration below them is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_dagster.errors import UserError, all_of
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.policy import Breach, Checks, Policy, breaches, load_policies
from ft_dagster.spec.variant import MOST_QUESTIONS

SPEC: dict[str, Any] = {
    "description": "d",
    "owners": ["o"],
    "base_model": "models/base",
    "data": {"sources": ["rows.jsonl"]},
}


def policies(folder: Path, content: Any = None) -> Any:
    if content is not None:
        (folder / "policy.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_policies(folder)


def broken(policy: Policy, **changes: Any) -> list[tuple[str, str]]:
    """(field, the policy's field) of each breach."""
    return [(breach.field, breach.rule) for breach in breaches(policy, declared_with(**changes))]


def declared_with(**changes: Any) -> VariantSpec:
    return VariantSpec.model_validate({**SPEC, **changes})


def test_what_is_declared_by_default_is_within_the_built_in_floors(tmp_path: Path) -> None:
    assert broken(policies(tmp_path).of("acme")) == []


LAX: list[tuple[dict[str, Any], str, str]] = [
    ({"gates": {"alpha": 0.499}}, "gates.alpha", "gates.alpha"),
    ({"gates": {"task_margin": 1.0}}, "gates.task_margin", "gates.task_margin"),
    ({"gates": {"general_margin": 1.0}}, "gates.general_margin", "gates.general_margin"),
    ({"gates": {"general_loss_margin": 1.0}}, "gates.general_loss_margin", "gates.general_loss_margin"),
    ({"gates": {"regression_margin": 1.0}}, "gates.regression_margin", "gates.regression_margin"),
    ({"gates": {"regression_margin": None}}, "gates.regression_margin", "gates.regression"),
    ({"gates": {"degeneration_margin": 1.0}}, "gates.degeneration_margin", "gates.degeneration_margin"),
    ({"gates": {"degeneration_margin": None}}, "gates.degeneration_margin", "gates.degeneration"),
    (
        {"gates": {"regression_loss_margin": 1.0}},
        "gates.regression_loss_margin",
        "gates.regression_loss_margin",
    ),
    ({"gates": {"undecided": "measured"}}, "gates.undecided", "gates.undecided"),
    (
        {"data": {"sources": ["rows.jsonl"], "decontaminate": {"enabled": False}}},
        "data.decontaminate.enabled",
        "evaluation.decontaminate",
    ),
    (
        {"data": {"sources": ["rows.jsonl"], "decontaminate": {"ngram": 50}}},
        "data.decontaminate.ngram",
        "evaluation.decontaminate",
    ),
    ({"gates": {"reference": 2}}, "gates.reference", "gates.reference"),
    ({"gates": {"reference": None}}, "gates.reference", "gates.regression"),
    ({"gates": {"reference_margin": 0.4}}, "gates.reference_margin", "gates.reference_margin"),
    ({"gates": {"reference_loss_tail": 0.4}}, "gates.reference_loss_tail", "gates.reference_loss_tail"),
    ({"evaluation": {"limit": 1}}, "evaluation.limit", "evaluation.questions"),
    ({"evaluation": {"general": []}}, "evaluation.general", "evaluation.general"),
]


MEASURED = {"undecided": "measured"}


def test_a_level_too_small_to_show_harm_is_refused_where_what_is_not_shown_may_pass(tmp_path: Path) -> None:
    """At 1e-5 a fall of 30 of 100 answers is no fail, and passes as measured within a margin of that."""
    lax = policies(tmp_path, {"gates": MEASURED}).of("acme")
    assert broken(lax, gates={**MEASURED, "alpha": 1e-5}) == [("gates.alpha", "gates.least_alpha")]
    assert broken(lax, gates={**MEASURED, "alpha": 0.05}) == []
    assert broken(lax, gates={"alpha": 1e-5}) == []
    own = policies(tmp_path, {"gates": {**MEASURED, "least_alpha": 0.02}}).of("acme")
    assert broken(own, gates={**MEASURED, "alpha": 0.02}) == []
    strict = policies(tmp_path, {"gates": {**MEASURED, "alpha": 0.01}}).of("acme")
    assert broken(strict, gates={**MEASURED, "alpha": 0.01}) == []


def test_benchmarks_may_fall_no_further_from_the_reference_because_other_scores_may(tmp_path: Path) -> None:
    """Unless the platform says how far all may."""
    narrow = {"general_margin": 0.05, "general_loss_margin": 0.05}
    policy = policies(tmp_path, {"gates": narrow}).of("acme")
    for field in ("reference_margin", "reference_loss_margin"):
        assert broken(policy, gates={**narrow, field: 0.2}) == [(f"gates.{field}", f"gates.{field}")]
        assert broken(policy, gates={**narrow, field: 0.1}) == []
        wide = policies(tmp_path, {"gates": {**narrow, field: 0.2}}).of("acme")
        assert broken(wide, gates={**narrow, field: 0.2}) == []


def test_asking_in_batches_counts_as_the_most_that_is_asked(tmp_path: Path) -> None:
    assert broken(policies(tmp_path).of("acme"), evaluation={"limit": "auto"}) == []
    high = Policy.model_validate({"evaluation": {"questions": MOST_QUESTIONS + 1}})
    assert broken(high, evaluation={"limit": "auto"}) == [("evaluation.limit", "evaluation.questions")]


def test_a_share_of_a_question_that_is_an_overlap_is_asked_for_once_the_platform_sets_a_floor(
    tmp_path: Path,
) -> None:
    floor = policies(tmp_path, {"evaluation": {"coverage": 0.6}}).of("acme")
    breach = [("data.decontaminate.coverage", "evaluation.coverage")]
    for share, found in ((None, breach), (0.7, breach), (0.6, []), (0.5, [])):
        declared = {"sources": ["rows.jsonl"], "decontaminate": {"coverage": share}}
        assert broken(floor, data=declared) == found
    lax = policies(tmp_path, {"evaluation": {"coverage": 0.6, "decontaminate": "optional"}}).of("acme")
    assert broken(lax) == breach
    off = {"sources": ["rows.jsonl"], "decontaminate": {"coverage": 0.6, "enabled": False}}
    assert broken(lax, data=off) == [("data.decontaminate.enabled", "evaluation.coverage")]
    plain = policies(tmp_path, {"evaluation": {}}).of("acme")
    assert broken(plain) == []
    assert plain.digest == policies(tmp_path, {}).of("acme").digest != floor.digest


@pytest.mark.parametrize(("declared", "field", "rule"), LAX, ids=str)
def test_without_a_file_no_declaration_passes_below_the_built_in_floors(
    tmp_path: Path, declared: dict[str, Any], field: str, rule: str
) -> None:
    assert broken(policies(tmp_path).of("acme"), **declared) == [(field, rule)]


def test_the_platform_alone_lowers_a_floor_for_all_or_for_one(tmp_path: Path) -> None:
    found = policies(
        tmp_path,
        {
            "gates": {"general_margin": 0.5},
            "per_tenant": {"acme": {"gates": {"undecided": "measured"}, "evaluation": {"questions": 1}}},
        },
    )
    lax = {"gates": {"general_margin": 0.5, "undecided": "measured"}, "evaluation": {"limit": 1}}
    assert broken(found.of("acme"), **lax) == []
    assert [field for field, _ in broken(found.of("globex"), **lax)] == [
        "gates.undecided",
        "evaluation.limit",
    ]


def test_it_is_said_who_set_a_rule(tmp_path: Path) -> None:
    found = policies(
        tmp_path, {"gates": {"alpha": 0.01}, "per_tenant": {"acme": {"gates": {"task_margin": 0.0}}}}
    )
    said = [found.set_by("acme", f"gates.{name}") for name in ("alpha", "task_margin", "undecided")]
    assert said == [
        "policy.yaml: gates.alpha",
        "policy.yaml: per_tenant.acme.gates.task_margin",
        "built in: gates.undecided",
    ]
    assert found.set_by("globex", "gates.task_margin") == "built in: gates.task_margin"


MEANS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"methods": ["qlora"]}, {"method": "lora"}, "method.name"),
    ({"bases": ["ours/*"]}, {"base_model": "theirs/model"}, "base_model.source"),
    ({"exports": ["adapter"]}, {"export": "merged"}, "export.format"),
    ({"budget_usd": 10}, {"resources": {"budget_usd": 11}}, "resources.budget_usd"),
    ({"budget_usd": 10}, {}, "resources.budget_usd"),
    ({"approvers": ["ann"]}, {"release": {"approvers": ["ann", "mallory"]}}, "release.approvers"),
    ({"gates": {"max_regurgitation": 0.1}}, {}, "gates.max_regurgitation"),
    ({"evaluation": {"general": ["mmlu", "arc_easy"]}}, {"evaluation": {"general": ["mmlu"]}},
     "evaluation.general"),
    ({"evaluation": {"general": ["mmlu"]}},
     {"evaluation": {"general": ["mmlu"]}, "gates": {"metrics": {"mmlu": "other"}}}, "gates.metrics.mmlu"),
    ({"gates": {"max_regurgitation": 0.1}},
     {"gates": {"max_regurgitation": 0.1}, "evaluation": {"probed_rows": 1, "canaries": ["never said"]}},
     "evaluation.probed_rows"),
    ({"gates": {"max_membership_auc": 0.7}},
     {"gates": {"max_membership_auc": 0.8}, "evaluation": {"membership": 500}}, "gates.max_membership_auc"),
    ({"gates": {"max_membership_auc": 0.7}}, {"evaluation": {"membership": 500}}, "gates.max_membership_auc"),
    ({"gates": {"max_membership_auc": 0.7}}, {"gates": {"max_membership_auc": 0.7}},
     "evaluation.membership"),
    ({"bases": ["ours/*"]}, {"base_model": "ours/../data/acme/evil"}, "base_model.source"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "declared", "field"), MEANS, ids=lambda value: str(value)[:50])
def test_what_a_platform_may_demand(
    tmp_path: Path, policy: dict[str, Any], declared: dict[str, Any], field: str
) -> None:
    assert broken(Policy(), **declared) == []
    assert [each for each, _ in broken(policies(tmp_path, policy).of("acme"), **declared)] == [field]


@pytest.mark.parametrize("name", ["quiz", "tasks/quiz.yaml"])
def test_a_benchmark_of_the_platforms_own_is_judged_by_its_main_metric(name: str) -> None:
    general = {"evaluation": {"general": ["tasks/quiz.yaml"]}}
    spec = VariantSpec.model_validate(
        {**SPEC, **general, "gates": {"metrics": {name: "weak", "mine": "acc"}}}
    )
    found = breaches(Policy.model_validate(general), spec, Checks({"tasks/quiz.yaml": "quiz"}))
    assert [(each.field, each.value, each.rule) for each in found] == [
        (f"gates.metrics.{name}", "weak", "evaluation.general")
    ]


def test_a_benchmark_of_the_tenants_own_is_no_general_one() -> None:
    def found(*entries: str, **data: Any) -> list[str]:
        declared = {**SPEC, "data": {**SPEC["data"], **data}, "evaluation": {"general": entries}}
        checks = Checks(own=["tasks/acme/easy.yaml"])
        return [each.field for each in breaches(Policy(), VariantSpec.model_validate(declared), checks)]

    own = "tasks/acme/easy.yaml"
    assert found(own) == ["evaluation.general"]
    assert found(own, general={"corpus": "general"}) == found(own, "arc_easy") == []
    assert found("tasks/arc_easy_local.yaml") == []


def test_approvers_are_the_policys_and_of_these_those_that_are_declared() -> None:
    spec = VariantSpec.model_validate({**SPEC, "release": {"approvers": ["ann", "mallory"]}})
    assert Policy().approvers_of(spec) == ("ann", "mallory")
    assert Policy(approvers=("ann", "bob")).approvers_of(spec) == ("ann",)
    assert Policy(approvers=("bob",)).approvers_of(spec) == ("bob",)
    assert Policy(approvers=("bob",)).approvers_of(VariantSpec.model_validate(SPEC)) == ("bob",)


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("gates: {alfa: 0.1}", "gates.alfa", "Did you mean alpha"),
        ("gates: {alpha: 0.7}", "gates.alpha", "less than 0.5"),
        ("gates: {alpha: 1e-300}", "gates.alpha", "greater than or equal to"),
        ("gates: {least_alpha: 0}", "gates.least_alpha", "greater than or equal to"),
        ("gates: {general_margin: 1e-17}", "gates.general_margin", "greater than or equal to"),
        ("methods: [lroa]", "methods.0", "lora"),
        ("per_tenant: {acme: {gates: {alpha: true}}}", "per_tenant.acme.gates.alpha", "a number is needed"),
        ("per_tenant: {Acme!: {}}", "per_tenant.Acme!", "pattern"),
        ("schema_version: 2", "schema_version", "1"),
        ("- alpha", None, "not a mapping"),
        ("gates: {", None, "expected"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_field(
    tmp_path: Path, text: str, field: str | None, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        policies(tmp_path, text)
    (error,) = all_of(caught.value)
    assert error.field == field
    assert words in str(error)
    assert error.file == str(tmp_path / "policy.yaml")


def test_the_digest_is_that_of_what_holds(tmp_path: Path) -> None:
    built_in = Policy().digest
    assert policies(tmp_path, "").of("acme").digest == built_in
    assert policies(tmp_path, {"gates": {"alpha": 0.1}}).of("acme").digest == built_in  # the same, said
    found = policies(tmp_path, {"per_tenant": {"acme": {"gates": {"alpha": 0.2}}}})
    assert found.of("globex").digest == built_in
    assert found.of("acme").digest != built_in


def test_a_floor_that_came_later_is_in_the_digest_where_it_is_said(tmp_path: Path) -> None:
    """Verdicts of earlier code name the policy by it."""
    assert Policy().digest == "664c607da000e478783e22f8991d1b83e791a6fa4c13de55a6bb2a1a8a1b658f"
    later = policies(tmp_path, {"gates": {"least_alpha": 0.02}}).of("acme")
    assert later.digest != Policy().digest


def test_a_policy_by_another_name_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "policy.yml").write_text("gates: {alpha: 0.01}")
    with pytest.raises(UserError, match="no floor in it holds"):
        policies(tmp_path)


@pytest.mark.parametrize(
    "content", [{"share_probes": "tenant"}, {"per_tenant": {"acme": {"share_probes": "platform"}}}]
)
def test_a_field_that_is_no_more_is_refused_with_the_way_out(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refused:
        policies(tmp_path, content)
    (one,) = all_of(refused.value)
    assert (one.problem, one.fix) == ("unknown field", Policy.gone["share_probes"])
    assert str(one.field).endswith("share_probes")


def test_the_policy_demands_that_refusals_are_judged_by_prompts_that_a_tenant_cannot_write(
    tmp_path: Path,
) -> None:
    policy = policies(tmp_path, {"gates": {"refusals": "required", "refusals_margin": 0.1}}).of("acme")
    assert broken(policy) == [("gates.refusals", "gates.refusals")]
    assert broken(policy, gates={"refusals": "off"}) == [("gates.refusals", "gates.refusals")]
    assert broken(policy, gates={"refusals": "on"}) == []
    wide = {"refusals": {"margin": 0.11, "over_margin": 0.2}}
    assert [field for field, _ in broken(policy, gates=wide)] == [
        "gates.refusals.margin",
        "gates.refusals.over_margin",
    ]
    own = declared_with(gates={"refusals": {"prompts": "data/acme/prompts.jsonl"}})
    [breach] = breaches(policy, own, Checks(own=("data/acme/prompts.jsonl",)))
    assert (breach.field, breach.rule) == ("gates.refusals.prompts", "gates.refusals")
    assert breaches(policy, own) == []


def test_without_a_demand_refusals_may_be_left_out_and_judged_by_a_tenants_own_prompts(
    tmp_path: Path,
) -> None:
    policy = policies(tmp_path, {}).of("acme")
    assert broken(policy) == []
    own = declared_with(gates={"refusals": {"prompts": "data/acme/prompts.jsonl"}})
    assert breaches(policy, own, Checks(own=("data/acme/prompts.jsonl",))) == []


def test_the_policy_demands_a_least_share_of_general_text(tmp_path: Path) -> None:
    policy = policies(tmp_path, {"data": {"general_share": 0.05}}).of("acme")
    for general, value in ((None, None), ({"corpus": "g", "share": 0.04}, 0.04)):
        declared = declared_with(
            data={"sources": ["rows.jsonl"], **({"general": general} if general else {})}
        )
        [breach] = breaches(policy, declared)
        assert breach == Breach("data.general.share", value, "data.general_share", "at least 0.05")
    enough = declared_with(data={"sources": ["rows.jsonl"], "general": {"corpus": "g", "share": 0.05}})
    assert breaches(policy, enough) == []


def test_the_policy_demands_that_benchmarks_are_watched_while_it_trains(tmp_path: Path) -> None:
    policy = policies(tmp_path, {"training": {"watch_questions": 8}}).of("acme")
    watched = {"watch": {"questions": 7}}
    assert broken(policy) == broken(policy, training=watched)
    assert broken(policy) == [("training.watch.questions", "training.watch_questions")]
    watched = {"watch": {"questions": 8}}
    assert broken(policy, training=watched) == []
    lax = policies(tmp_path, {"training": {"watch_questions": 8}, "evaluation": {"general": "none"}}).of(
        "acme"
    )
    assert broken(lax, training=watched, evaluation={"general": []}) == [
        ("evaluation.general", "training.watch_questions")
    ]
    easy = declared_with(training=watched, evaluation={"general": ["tasks/acme/easy.yaml"]})
    assert breaches(lax, easy) == []
    [breach] = breaches(lax, easy, Checks(own=["tasks/acme/easy.yaml"]))
    assert (breach.field, breach.rule) == ("evaluation.general", "training.watch_questions")


def test_a_policy_that_says_nothing_of_them_keeps_its_digest(tmp_path: Path) -> None:
    plain = policies(tmp_path, {}).of("acme")
    same: tuple[dict[str, Any], ...] = ({"data": {}}, {"training": {}}, {"gates": {"refusals": "optional"}})
    for part in same:
        assert policies(tmp_path, part).of("acme").digest == plain.digest
    for part in ({"data": {"general_share": 0.1}}, {"gates": {"refusals": "required"}}):
        assert policies(tmp_path, part).of("acme").digest != plain.digest
