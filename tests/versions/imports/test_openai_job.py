"""A job's hyperparameters are read in both of their shapes, and each documented field has an outcome."""

from __future__ import annotations

from typing import Any

import pytest

from tests.long import mostly_long
from tests.versions.imports.imported import (
    chat,
    declaration,
    imported,
    job,
    lines,
    outcomes,
    pair,
    refused,
)

pytestmark = pytest.mark.slow

GIVEN = {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.8}
TRAINING = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "packing": False,
}


def with_job(**fields: Any) -> dict[str, Any]:
    rows = lines("rows.jsonl", [chat(number) for number in range(400)])
    return imported("openai", rows, job(**fields), "--base-model", "base")


@pytest.mark.parametrize(
    "shape",
    [
        {"hyperparameters": GIVEN},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": GIVEN}}},
        {
            "hyperparameters": GIVEN,
            "method": {"type": "supervised", "supervised": {"hyperparameters": GIVEN}},
        },
    ],
)
def test_hyperparameters_of_either_shape_become_the_same_training(shape: dict[str, Any]) -> None:
    made = with_job(**shape)
    assert declaration(made)["training"] == TRAINING
    assert made["counts"]["dropped"] == 1  # the multiplier, whatever the shape


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 8, 12, 32, 97, 256])
def test_a_batch_is_as_many_examples_a_step_as_it_was(rows: int) -> None:
    training = declaration(with_job(hyperparameters={"batch_size": rows}))["training"]
    micro, steps = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    assert (micro * steps, training["packing"]) == (rows, False)
    assert micro <= 4


@pytest.mark.parametrize("field", ["n_epochs", "batch_size", "learning_rate_multiplier"])
def test_what_was_left_to_the_service_is_left_to_the_plan(field: str) -> None:
    made = with_job(hyperparameters={field: "auto"})
    assert "training" not in declaration(made)
    assert outcomes(made)[f"hyperparameters.{field}"] == ("carried", None)


def test_a_multiple_of_a_rate_that_nobody_knows_is_dropped_and_refused_unless_allowed() -> None:
    rows = lines("rows.jsonl", [chat(number) for number in range(400)])
    given = ["openai", rows, job(hyperparameters={"learning_rate_multiplier": 2}), "--base-model", "base"]
    error = refused(*given, allow="0")
    assert "learning_rate_multiplier" in error.problem
    assert "--allow-dropped 1" in error.fix
    assert imported(*given, allow="1")["counts"]["dropped"] == 1
    assert outcomes(with_job(hyperparameters={"learning_rate_multiplier": 1}))[
        "hyperparameters.learning_rate_multiplier"
    ] == ("carried", None)


def test_of_two_shapes_that_differ_the_newer_is_taken_and_the_other_counted_as_dropped() -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    made = with_job(hyperparameters={"n_epochs": 5}, method=method)
    assert declaration(made)["training"] == {"num_train_epochs": 2}
    assert outcomes(made)["hyperparameters.n_epochs"] == ("dropped", None)


FIELDS: dict[str, tuple[Any, str, str | None]] = {
    "id": ("ftjob-abc123", "carried", None),
    "created_at": (1721764800, "carried", None),
    "finished_at": (1721765800, "carried", None),
    "estimated_finish": (1721765800, "carried", None),
    "error": ({"code": "x", "message": "y", "param": None}, "carried", None),
    "fine_tuned_model": ("ft:gpt-4o-mini:acme::abc", "carried", None),
    "model": ("gpt-4o-mini-2024-07-18", "changed", None),
    "organization_id": ("org-123", "carried", None),
    "result_files": (["file-r"], "carried", None),
    "status": ("succeeded", "carried", None),
    "trained_tokens": (5768, "carried", None),
    "training_file": ("file-t", "carried", None),
    "validation_file": ("file-v", "changed", None),
    "seed": (42, "carried", "training.seed"),
    "suffix": ("post", "carried", None),
    "user_provided_suffix": ("post", "carried", None),
    "metadata": ({"team": "post"}, "carried", None),
    "integrations": ([{"type": "wandb", "wandb": {"project": "p"}}], "changed", "training.report_to"),
    "anything_new": (1, "dropped", None),
}


@pytest.mark.parametrize("field", mostly_long(FIELDS, every=2))
def test_each_field_of_a_job_has_an_outcome(field: str) -> None:
    value, kind, here = FIELDS[field]
    made = with_job(hyperparameters={"n_epochs": 1}, **{field: value})
    assert outcomes(made)[field] == (kind, here)
    [reason] = [each["why"] for each in made["fields"] if each["field"] == field]
    assert reason or here


def test_a_field_that_says_nothing_is_not_counted() -> None:
    empty: dict[str, Any] = {"error": None, "result_files": [], "metadata": {}, "seed": None}
    assert outcomes(with_job(hyperparameters={}, **empty)).keys() == {"object", "rows.messages"}


def test_the_past_of_a_job_is_a_comment_of_the_declaration() -> None:
    text = with_job(hyperparameters={}, fine_tuned_model="ft:x\n  evil: 1")["declaration"]["text"]
    assert '# fine_tuned_model: "ft:x\\n  evil: 1"\n' in text


def test_a_credential_among_the_fields_is_nowhere_written() -> None:
    made = with_job(hyperparameters={}, metadata={"a": 1}, api_key="sk-1234567890")
    assert "sk-1234567890" not in str(made)


def test_a_list_of_one_job_is_that_job() -> None:
    rows = lines("rows.jsonl", [chat(number) for number in range(400)])
    listed = job("jobs.json", object="list", data=[{"object": "fine_tuning.job", "seed": 9}], has_more=False)
    made = imported("openai", rows, listed, "--base-model", "base")
    assert declaration(made)["training"] == {"seed": 9}


@pytest.mark.parametrize("kind", ["dpo", "reinforcement"])
def test_settings_of_another_kind_of_training_are_dropped_one_by_one(kind: str) -> None:
    own = {"hyperparameters": {"n_epochs": 2, "beta": 0.1}, "grader": {"type": "string_check"}}
    made = with_job(method={"type": kind, kind: own})
    assert "training" not in declaration(made)
    assert {field for field, (outcome, _) in outcomes(made).items() if outcome == "dropped"} == {
        "method.type",
        f"method.{kind}.hyperparameters.n_epochs",
        f"method.{kind}.hyperparameters.beta",
        f"method.{kind}.grader",
    }


def test_pairs_of_a_job_are_kept_in_a_file_of_their_own() -> None:
    rows = lines("rows.jsonl", [*(chat(number) for number in range(400)), *map(pair, range(7))])
    made = imported("openai", rows, "--base-model", "base")
    assert made["counts"]["dropped"] == 7
    assert any(path.endswith("data/acme/support/preferences.jsonl") for path in made["made"])
