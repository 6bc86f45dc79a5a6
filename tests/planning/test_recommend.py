"""A recommendation by dry run: real architectures, real figures, in the words a team would ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.planning.recommend import RecommendationRequest, recommend_method
from ft_dagster.planning.survey import Survey
from ft_dagster.program import of_hours
from ft_dagster.report.tables.recommendation import memory_line, ranking_table, reasons_lines
from tests.present import present

CATALOGUE = load_catalogue()


def asked(gpus: str, **more: Any) -> Survey:
    return recommend_method(
        RecommendationRequest(**{"examples": 50_000, "max_length": 512, **more}), CATALOGUE.gpus(gpus)
    )


@pytest.fixture(scope="module")
def thirteen() -> Survey:
    return asked("2xA100-80GB", params=13e9, examples=200_000, variants=5, budget_usd=1000, micro_batch=1)


@pytest.mark.long
def test_no_reason_says_that_4_bits_are_slower_where_lora_has_to_recompute() -> None:
    """34B on one card: LoRA fits with checkpointing alone, takes longer and costs more."""
    found = asked("A100-80GB", model="CodeLlama-34B", max_length=1024)
    lora, qlora = (found.decision.row(name) for name in ("lora", "qlora"))
    assert present(lora.figures.usd) > present(qlora.figures.usd)
    said = {rule.rule: rule.sentence for rule in qlora.rules}
    assert "gradient checkpointing" not in said["fits"]
    assert not [sentence for sentence in said.values() if "slower" in sentence]
    own, other = (present(present(row.figures.training).hours) for row in (qlora, lora))
    assert f"here {of_hours(own)} on 1 device, lora {of_hours(other)} on 1 device" in said["usual"]


@pytest.mark.slow
def test_the_document_has_what_a_script_asks_for(thirteen: Survey) -> None:
    document = json.loads(json.dumps(thirteen.document().to_json()))
    assert document["method"] == "lora"
    assert set(document["ranking"][0]) == {
        "method", "fits", "gpus_needed", "memory_gb_per_gpu", "hours", "cost_usd", "storage_gb",
        "serving_gpus", "days_to_candidate", "warnings", "rules",
    }  # fmt: skip
    assert len(document["ranking"]) == 6
    assert document["plan"]["memory_bytes"]["total"] == pytest.approx(
        1e9 * document["ranking"][0]["memory_gb_per_gpu"], rel=1e-3
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Asked of a Llama of 13M parameters, in rows long enough for activations to weigh."""
    folder = tmp_path_factory.mktemp("small")
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "vocab_size": 1000}
    config = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 4, **sizes}
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}), "utf-8")
    return {"model": str(folder), "max_length": 2048, "examples": 1000}


@pytest.mark.long
def test_what_is_left_open_is_filled_in_so_that_it_fits(small: dict[str, Any], tmp_path: Path) -> None:
    one = {**small, "method": "lora", "micro_batch": 1}
    roomy = recommend_method(RecommendationRequest(**one), card(tmp_path, 10_000))
    total = roomy.chosen.occupancy.total
    tight = recommend_method(RecommendationRequest(**one), card(tmp_path, (total - 60_000_000) // 2**20))
    assert not roomy.chosen.resolved.training.gradient_checkpointing
    assert tight.chosen.resolved.training.gradient_checkpointing
    assert tight.decision.fits
    assert "instead of" in tight.chosen.resolved.reasons.of("training.gradient_checkpointing").reason


@pytest.mark.long
def test_a_roomy_gpu_takes_the_same_batch_in_larger_parts(small: dict[str, Any], tmp_path: Path) -> None:
    one, open_ = (
        recommend_method(
            RecommendationRequest(**small, method="lora", micro_batch=size), card(tmp_path, 10_000)
        )
        for size in (1, None)
    )
    before, after = one.chosen.resolved.training, open_.chosen.resolved.training
    assert after.per_device_train_batch_size > 1
    assert before.gradient_accumulation_steps == (
        after.per_device_train_batch_size * after.gradient_accumulation_steps
    )
    said = open_.chosen.resolved.reasons.of("training.per_device_train_batch_size").reason
    assert "GB a device of 10.5; larger products" in said


@pytest.mark.long
def test_what_does_not_fit_names_changes_and_the_first_makes_it_fit(
    small: dict[str, Any], tmp_path: Path
) -> None:
    big = {**small, "method": "lora", "micro_batch": 16}
    total = recommend_method(RecommendationRequest(**big), card(tmp_path, 10_000)).chosen.occupancy.total
    hardware = card(tmp_path, total // 2**20 * 15 // 100)
    refused = recommend_method(RecommendationRequest(**big), hardware)
    assert not refused.decision.fits
    first = refused.changes[0]
    assert [setting.field for setting in first.settings] == ["training.per_device_train_batch_size"]
    mended = recommend_method(
        RecommendationRequest(**{**big, "micro_batch": first.settings[0].value}), hardware
    )
    assert mended.decision.fits
    assert any(
        line.lstrip().startswith("1. training.per_device") for line in reasons_lines(refused.document())
    )


@pytest.mark.slow
def test_a_declared_method_is_obeyed_and_the_difference_said(small: dict[str, Any], tmp_path: Path) -> None:
    found = recommend_method(RecommendationRequest(**small, method="full"), card(tmp_path, 10_000))
    assert (found.decision.method, found.decision.recommended) == ("full", "lora")
    assert any("full is declared and obeyed" in note for note in found.decision.notes)
    document = found.document()
    assert "optimizer states" in memory_line(document)
    assert ranking_table(document).row_count == 6


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"general_share": 0.7}, "--general-share"),
        ({"examples": 0}, "--examples"),
        ({"budget_usd": -5.0}, "--budget"),
        ({"variants": 0}, "--variants"),
        ({"model": None}, "--model"),
        ({"params": 7e9}, "--model"),
        ({"model": None, "params": 3.0}, "--params"),
        ({"model": "Lama-3-8B"}, "model"),
        ({"method": "houlsby"}, "--method"),
        ({"objective": "persona"}, "--objective"),
    ],
)
def test_a_question_without_an_answer_is_one_error(
    small: dict[str, Any], wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError) as raised:
        recommend_method(RecommendationRequest(**{**small, **wrong}), CATALOGUE.gpus("T4"))
    assert raised.value.field == field


def card(folder: Path, mib: int) -> Any:
    """One GPU of so many MiB, from a project's own catalogue."""
    (folder / "gpus.yaml").write_text(
        f"cards: {{Own: {{memory_mib: {mib}, bf16_tflops: 100, usd_per_hour: 1}}}}", "utf-8"
    )
    return load_catalogue(folder).gpus("Own")
