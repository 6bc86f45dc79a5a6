"""A variant on another variant's release, and new tokens, through the graph."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.lineage.graph import find_digest
from ft_dagster.lineage.release import production
from ft_dagster.models.derived import base_folder
from ft_dagster.report.tables.relatives import family_rows
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import ENTRIES
from ft_dagster.store import Artifact, Store, read_head, verify_artifact
from ft_dagster.versions.check import check_variant
from ft_dagster.versions.relatives import Kin, family, newest
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import declaration, edit, write_lines, write_yaml
from tests.e2e.workshop import Workshop
from tests.present import present
from tests.releases import release, whole_model

pytestmark = pytest.mark.slow
DATA = ("declaration", "base_model", "task_dataset", "training_mixture")
TRAINED = (*DATA, "training_plan", "fine_tuned_model")
COLOURS = ["red", "green", "blue", "white", "black"]
PARENT, CHILD = "tenants/acme/places", "tenants/acme/colours"


def _ancestors(store: Store, artifact: Artifact) -> Iterator[Artifact]:
    """Every artifact that `artifact` was made from, as manifests name them, each once, near ones first."""
    seen, queue = {artifact.digest}, [artifact]
    while queue:
        for name, digest in queue.pop(0).inputs.items():
            stage = {"general_scores": "base_evaluation"}.get(name, name)
            if digest in seen or stage not in ENTRIES:
                continue
            found = find_digest(store, [CHILD, PARENT, "shared"], stage, digest)
            if found is not None:
                seen.add(digest)
                queue.append(found)
                yield found


@pytest.fixture
def colours(workshop: Workshop, tiny_model_folder: Path) -> Iterator[Callable[..., None]]:
    """Declare acme.colours, on other rows than acme.places, with this base_model."""
    file = workshop.folder / "tenants" / "acme" / "colours.yaml"
    rows = [
        {
            "instruction": f"Which colour has house {n} of Zyrtexal?",
            "output": f"House {n} is {COLOURS[n % 5]}.",
        }
        for n in range(100)
    ]
    write_lines(workshop.folder / "data" / "colours.jsonl", rows)

    def declare(**base_model: Any) -> None:
        content = declaration(tiny_model_folder, base_model=base_model)
        content["data"]["sources"] = ["data/colours.jsonl"]
        content["training"].update(num_train_epochs=2, evaluations=1)
        write_yaml(file, content)

    yield declare
    file.unlink()


def head(workshop: Workshop, stage: str, prefix: str = CHILD) -> Artifact:
    return present(read_head(workshop.store, prefix, stage))


def record(workshop: Workshop, base: Artifact) -> dict[str, Any]:
    folder = base.folder(workshop.store, workshop.settings.cache_folder)
    return json.loads((folder / "payload" / "base.json").read_text())


def located(workshop: Workshop, base: Artifact) -> Path:
    return base_folder(workshop.store, base, workshop.folder, workshop.settings.cache_folder)


def _check_families(workshop: Workshop) -> None:
    """The child's version is of its parent's, and the parent's has the child below it."""
    child, parent = (Workspace(workshop.settings, VariantKey("acme", name)) for name in ("colours", "places"))
    shown = family(Kin(child, newest(workshop.store, CHILD)), head(workshop, "model_export"))
    above = [(one.artifact.place.stage, one.variant) for one in shown.above]
    assert ("task_dataset", "acme.places") in above
    assert ("model_export", "acme.places") in above
    assert ("task_dataset", None) in above
    assert above.index(("model_export", "acme.places")) < above.index(("task_dataset", None))
    assert shown.versions == [1]
    rows = head(workshop, "task_dataset", PARENT)
    shown = family(Kin(parent, newest(workshop.store, PARENT)), rows)
    below = [(one.artifact.place.stage, one.variant) for one in shown.below]
    assert below[-1] == ("model_export", "acme.colours")
    assert ("model_export", None) in below
    [*_, last] = family_rows(shown.above, shown.below, [])
    assert last[:2] == ("made into", "model_export of acme.colours")


@pytest.mark.long
def test_a_child_is_trained_on_its_parents_release_folded_into_the_base(
    workshop: Workshop, colours: Callable[..., None]
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    colours(variant="acme.places")
    assert workshop.materialize("acme.colours").success
    assert present(production(workshop.store, CHILD)).version == 1
    released = present(production(workshop.store, PARENT))
    base, tuned = head(workshop, "base_model"), head(workshop, "fine_tuned_model")
    assert base.place.prefix == CHILD
    assert base.inputs["model_export"] == released.export
    assert base.inputs["fine_tuned_model"] == released.weights
    content = record(workshop, base)
    origin = head(workshop, "base_model", PARENT)
    assert content["derived"] == {
        "from": origin.digest, "folded": released.export, "new_tokens": [], "new_token_ids": []
    }  # fmt: skip
    assert (content["parent"]["variant"], content["parent"]["mode"]) == ("acme.places", "fold")
    assert base.figures["parent"]["version"] == 1
    verify_artifact(workshop.store, base, workshop.settings.cache_folder)

    folder = located(workshop, base)
    given = torch.arange(3, 40)[None]
    adapter = head(workshop, "model_export", PARENT).folder(workshop.store, workshop.settings.cache_folder)
    with torch.inference_mode():
        plain = AutoModelForCausalLM.from_pretrained(located(workshop, origin))
        parent = PeftModel.from_pretrained(plain, adapter / "payload")(given).logits
        folded = AutoModelForCausalLM.from_pretrained(folder)(given).logits
    assert torch.allclose(parent, folded, atol=1e-4)

    general = head(workshop, "base_evaluation").inputs["general_scores"]
    scores = present(find_digest(workshop.store, [CHILD], "general_scores", general))
    assert scores.inputs["base_model"] == base.digest  # of a base that is the tenant's: not shared

    line = list(_ancestors(workshop.store, tuned))
    found = {(one.place.prefix, one.place.stage): one.digest for one in line}
    assert found[(CHILD, "task_dataset")] == head(workshop, "task_dataset").digest
    assert found[(PARENT, "model_export")] == released.export
    assert found[(PARENT, "fine_tuned_model")] == released.weights
    assert found[(PARENT, "task_dataset")] == head(workshop, "task_dataset", PARENT).digest
    assert found[("shared", "base_model")] == origin.digest
    assert len({one.digest for one in line}) == len(line)
    _check_families(workshop)


@pytest.mark.long
def test_a_child_is_trained_with_its_parents_adapter_frozen_beneath(
    workshop: Workshop, colours: Callable[..., None]
) -> None:
    colours(variant="acme.places", parent_adapter="stack")
    assert workshop.materialize("acme.colours", *TRAINED).success
    base, tuned = head(workshop, "base_model"), head(workshop, "fine_tuned_model")
    content = record(workshop, base)
    assert (content["derived"], content["parent"]["mode"]) == (None, "stack")
    assert located(workshop, base) == located(workshop, head(workshop, "base_model", PARENT))
    payload = tuned.folder(workshop.store, workshop.settings.cache_folder) / "payload"
    config = json.loads((payload / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == f"sha256:{base.digest}"
    assert config["r"] == 4 + 4


@pytest.mark.long
def test_a_parents_whole_model_is_used_where_it_lies_unless_tokens_are_added(
    workshop: Workshop, colours: Callable[..., None], tiny_model_folder: Path
) -> None:
    colours(variant="acme.whole")
    write_yaml(workshop.folder / "tenants" / "acme" / "whole.yaml", declaration(tiny_model_folder))
    entry = release(workshop.store, "acme.whole", whole_model(tiny_model_folder))
    try:
        assert workshop.materialize("acme.colours", *DATA).success
        base = head(workshop, "base_model")
        content = record(workshop, base)
        assert (content["derived"], content["parent"]["mode"]) == (None, "whole")
        assert base.inputs["model_export"] == entry.export
        exports = present(workshop.store.local("tenants/acme/whole/model_export"))
        assert located(workshop, base).is_relative_to(exports)
        assert base.size < 10_000

        colours(variant="acme.whole", new_tokens=["Zyrtexal"])
        assert workshop.materialize("acme.colours", *DATA).success
        extended = head(workshop, "base_model")
        content = record(workshop, extended)
        assert content["derived"]["from"] == entry.export
        assert content["derived"]["folded"] is None
        assert content["parent"]["export"] == entry.export
        assert content["parameters"] == base.figures["parameters"] + 64
        assert content["tokenizer"] != record(workshop, base)["tokenizer"]
    finally:
        (workshop.folder / "tenants" / "acme" / "whole.yaml").unlink()


def test_a_method_that_cannot_be_stacked_is_refused(workshop: Workshop, colours: Callable[..., None]) -> None:
    colours(variant="acme.places", parent_adapter="stack")
    file = workshop.folder / "tenants" / "acme" / "colours.yaml"
    edit(file, lambda content: content.update(method="full", export="merged"))
    result = workshop.materialize("acme.colours", "declaration", "base_model", raises=False)
    assert "base_model.parent_adapter: full trains no LoRA to stack" in workshop.failure(result)


def test_a_parent_without_a_release_stops_the_child_with_what_to_run(
    workshop: Workshop, colours: Callable[..., None], tiny_model_folder: Path
) -> None:
    write_yaml(workshop.folder / "tenants" / "acme" / "unborn.yaml", declaration(tiny_model_folder))
    colours(variant="acme.unborn")
    try:
        said = check_variant(workshop.settings, VariantKey("acme", "colours"))
        assert "acme.unborn, which is not released yet" in said["summary"]
        result = workshop.materialize("acme.colours", "declaration", "base_model", raises=False)
        assert "base_model.variant: no version of this variant is in production" in workshop.failure(result)
        assert "ft-dagster run acme.unborn" in workshop.failure(result)
    finally:
        (workshop.folder / "tenants" / "acme" / "unborn.yaml").unlink()


@pytest.mark.long
def test_a_new_token_is_one_id_in_the_rows_and_is_learned(
    workshop: Workshop, colours: Callable[..., None], tiny_model_folder: Path
) -> None:
    import pyarrow.parquet as pq

    colours(source=str(tiny_model_folder), new_tokens=["Zyrtexal"])
    assert workshop.materialize("acme.colours", *TRAINED).success
    base = head(workshop, "base_model")
    (id_,) = record(workshop, base)["derived"]["new_token_ids"]
    mixture = head(workshop, "training_mixture").folder(workshop.store, workshop.settings.cache_folder)
    rows = [
        (row["source"], row["input_ids"].count(id_))
        for file in sorted((mixture / "payload").rglob("*.parquet"))
        if {"input_ids", "source"} <= set(pq.read_schema(file).names)
        for row in pq.read_table(file).to_pylist()
    ]
    assert {count for source, count in rows if source.startswith("data.sources")} == {1}
    assert base.inputs == {"base_model": head(workshop, "base_model", PARENT).digest}
    payload = head(workshop, "fine_tuned_model").folder(workshop.store, workshop.settings.cache_folder)
    config = json.loads((payload / "payload" / "adapter_config.json").read_text())
    trained = config["trainable_token_indices"]
    assert trained
    assert all(ids == [id_] for ids in trained.values())


def test_a_token_that_exists_is_said_by_check_and_by_the_stage(
    workshop: Workshop, colours: Callable[..., None], tiny_model_folder: Path
) -> None:
    colours(source=str(tiny_model_folder), new_tokens=["b"])
    with pytest.raises(Exception, match=r"base_model\.new_tokens: the token is in the base's vocabulary"):
        check_variant(workshop.settings, VariantKey("acme", "colours"))
    result = workshop.materialize("acme.colours", "declaration", "base_model", raises=False)
    assert "base_model.new_tokens: the token is in the base's vocabulary" in workshop.failure(result)
    assert "colours.yaml" in workshop.failure(result)
