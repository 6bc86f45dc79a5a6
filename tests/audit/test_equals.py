"""What came of one of two equal artifacts of a variant is found from both, and told once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.answers import ModelThatHas
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.models import at, diff, model
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proof_form import ABSENCE
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import HELD_OUT, INHERITED, JUDGED, TRAINED, record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.traces import source
from ft_dagster.audit.trained import training_records
from ft_dagster.audit.verify.verify import verify
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.errors import UserError
from ft_dagster.gate.samples import Sample
from ft_dagster.store import Artifact
from tests.audit.histories import History, question, this_moment
from tests.long import mostly_long
from tests.present import present

pytestmark = pytest.mark.slow


@pytest.fixture
def made(tmp_path: Any) -> History:
    return History(tmp_path / "project")


def rows_of(made: History, dataset: Artifact, split: str) -> list[str]:
    """The identities of a split's rows."""
    payload = dataset.folder(made.store, made.settings.cache_folder) / "payload"
    return [row.identity.hex() for row in read_split(payload / f"{split}.parquet")]


def told(audit: Audit, identities: Iterable[str], *hows: str) -> set[tuple[ModelThatHas, ...]]:
    """The models that have the records in one of these ways, as each answer tells them."""
    answers = [record(audit, parse_record(identity)) for identity in identities]
    return {tuple(each for each in answer.models if each.how in hows) for answer in answers}


def twin(made: History, mixture: Artifact, first: Artifact, how: str) -> Artifact:
    """Equal weights: by another plan, which comes before the first by its key, or made again."""
    if how == "made again":
        made.remove("fine_tuned_model")
        return made.model("acme.one", mixture, made.base(), times=3)
    for number in range(100):
        inputs = {"training_mixture": mixture, "base_model": made.base()}
        plan = made._put("training_plan", "tenants/acme/one", {"plan.json": {"n": number}}, inputs)
        other = made.model("acme.one", mixture, made.base(), times=3, plan=plan)
        if other.place.key < first.place.key:
            return other
    raise AssertionError("no key came before")


@pytest.mark.parametrize("how", mostly_long(["another plan", "made again"], ["made again"]))
@pytest.mark.parametrize("again", [False, True])
def test_what_came_of_equal_weights_is_told_once(made: History, how: str, again: bool) -> None:
    base = made.base()
    dataset = made.dataset("acme.one", [question(number) for number in range(30)])
    mixture = made.mixture("acme.one", dataset)
    first = made.model("acme.one", mixture, base, times=3)
    export, _ = made.release("acme.one", first, base)
    derived = made.derived_base("acme.child", "acme.one", export, first, base)
    rows = made.dataset("acme.child", [question(number) for number in range(100, 120)])
    child = made.model("acme.child", made.mixture("acme.child", rows), derived)
    second = twin(made, mixture, first, how)
    assert (second.digest, second.manifest != first.manifest) == (first.digest, True)
    made.release("acme.one", second, base)
    audit = made.audit(again=again)
    [models] = told(audit, rows_of(made, dataset, "train"), TRAINED, INHERITED)
    assert [(one.variant, one.how, one.times) for one in models] == [
        ("acme.one", TRAINED, 3), ("acme.child", INHERITED, 3),
    ]  # fmt: skip
    assert [one.exports for one in models] == [(export.digest,), ()]
    assert [one.version for one in models[0].releases] == [1]
    answer = model(audit, first.digest)
    assert (answer.exports, answer.children) == ((export.digest,), (f"acme.child {child.digest}",))
    came = [(one.variant, one.weights) for one in source(audit, dataset.digest).models]
    assert sorted(came) == [("acme.child", child.digest), ("acme.one", first.digest)]
    assert verify(audit).problems == ()


def test_what_equal_weights_were_judged_with_was_not_held_out_for_the_others(made: History) -> None:
    dataset = made.dataset("acme.one", [question(number) for number in range(60)])
    mixture = made.mixture("acme.one", dataset)
    first = made.model("acme.one", mixture, made.base(), times=3)
    row, left, *_ = rows_of(made, dataset, "test")
    asked = Sample(
        "test_split_task", "test_split_task", "acc", f"test_split_task:0:{row[:32]}", 1.0, 1.0, True
    )
    made.evaluated("acme.one", first, [asked], [])
    second = twin(made, mixture, first, "another plan")
    audit = made.audit()
    assert second.digest == first.digest
    for identity, how in ((row, JUDGED), (left, HELD_OUT)):
        assert [one.how for one in record(audit, parse_record(identity)).models] == [how]


def equal_mixtures(made: History) -> tuple[list[Artifact], list[Artifact]]:
    """Two data sets and their mixtures: the rows differ in their ends alone, which no example reaches."""
    rows = [question(number) for number in range(30)]
    longer = [{**row, "completion": f"{row['completion']} And no example reaches this."} for row in rows]
    datasets = [made.dataset("acme.one", each) for each in (rows, longer)]
    mixtures = [made.mixture("acme.one", each) for each in datasets]
    assert mixtures[0].digest == mixtures[1].digest
    assert mixtures[0].manifest != mixtures[1].manifest
    return datasets, mixtures


def test_what_was_trained_on_one_of_two_equal_mixtures_is_found_by_both(made: History) -> None:
    datasets, mixtures = equal_mixtures(made)
    weights = made.model("acme.one", mixtures[0], made.base(), times=3)
    audit = made.audit()
    for dataset in datasets:
        [models] = told(audit, rows_of(made, dataset, "train"), TRAINED)
        assert [(one.weights, one.times) for one in models] == [(weights.digest, 3)]
    assert verify(audit).problems == ()


def test_no_absence_is_proved_of_what_an_equal_mixture_has(made: History, tmp_path: Path) -> None:
    """Of the model and of one that starts from its release; of the mixture that is named there is a proof."""
    datasets, mixtures = equal_mixtures(made)
    base = made.base()
    weights = made.model("acme.one", mixtures[0], base, times=3)
    export, _ = made.release("acme.one", weights, base)
    derived = made.derived_base("acme.child", "acme.one", export, weights, base)
    rows = made.dataset("acme.child", [question(number) for number in range(100, 120)])
    child = made.model("acme.child", made.mixture("acme.child", rows), derived)
    audit = made.audit()
    own, equal = (parse_record(rows_of(made, each, "train")[0]) for each in datasets)
    for digest in (weights.digest, child.digest):
        assert prove(audit, own, audit.model(digest))["times"] == 3
        with pytest.raises(UserError, match="was trained on it, and nothing proves that"):
            prove(audit, equal, audit.model(digest))
        proof = tmp_path / "proof.json"
        proof.write_text(json.dumps(prove(audit, parse_record("never written"), audit.model(digest))))
        found = check(proof, parse_record("never written"))
        assert found.kind == ABSENCE
        assert "that no mixture that came out equal to the model's own has it" in found.unchecked


def test_rows_of_all_equal_mixtures_are_what_a_model_was_trained_on(made: History) -> None:
    """As `record` tells it; each once, also where a mixture was made again of the same rows."""
    datasets, mixtures = equal_mixtures(made)
    base = made.base()
    weights = made.model("acme.one", mixtures[0], base, times=3)
    made.release("acme.one", weights, base)
    for _ in range(2):
        audit = made.audit()
        found = list(training_records(audit, audit.model(weights.digest)))
        expected = {identity for each in datasets for identity in rows_of(made, each, "train")}
        assert {one.identity for one in found} == expected
        assert len(found) == len(expected) == at(audit, "acme.one", this_moment()).records
        assert all(one.times == 3 and one.content is not None and one.facts for one in found)
        made.remove("training_mixture")
        assert made.mixture("acme.one", datasets[0]).generation > 1


def test_an_equal_mixture_whose_rows_retention_removed_takes_no_answer_away(tmp_path: Path) -> None:
    """Of before there was evidence of records: that it had the row the index alone knows, not how often."""
    made = History(tmp_path / "project", kept="none")
    datasets, mixtures = equal_mixtures(made)
    identities = [rows_of(made, each, "train")[0] for each in datasets]
    weights = made.model("acme.one", mixtures[0], made.base(), times=3)
    audit = made.audit()
    named = audit.index.parent(audit.model(weights.digest), "training_mixture")
    audit.index.close()
    assert named is not None
    made._remove(lambda one: one.place in {each.place for each in mixtures} - {named.place})
    audit = made.audit()
    for identity, mixture in zip(identities, mixtures, strict=True):
        [[one]] = told(audit, [identity], TRAINED)
        assert one.times == (3 if mixture.place == named.place else None)
    assert len(list(training_records(audit, audit.model(weights.digest)))) == len(
        rows_of(made, datasets[0], "train")
    )
    [said] = model(audit, weights.digest).unread
    assert said.endswith(": removed by retention")
    assert diff(audit, weights.digest, weights.digest).unread == (said, said)
    assert verify(audit).problems == ()


@pytest.mark.parametrize("stage", mostly_long(["training_mixture", "task_dataset"], ["training_mixture"]))
@pytest.mark.parametrize("content", [None, b"{}"], ids=["gone", "altered"])
def test_damage_to_an_equal_mixture_takes_no_answer_away(
    made: History, stage: str, content: bytes | None
) -> None:
    """What the model names is whole, and told; that more is missing is said."""
    datasets, mixtures = equal_mixtures(made)
    base = made.base()
    weights = made.model("acme.one", mixtures[0], base, times=3)
    made.release("acme.one", weights, base)
    made.audit().index.close()
    damaged = {"training_mixture": mixtures, "task_dataset": datasets}[stage][1]
    file = Path(made.store.path(damaged.manifest_path))
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    audit = made.audit()
    found = list(training_records(audit, audit.model(weights.digest)))
    assert {one.identity for one in found} >= {*rows_of(made, datasets[0], "train")}
    answer = at(audit, "acme.one", this_moment())
    assert answer.records >= len(found)
    [said] = answer.model.unread
    assert said.startswith("the rows of an equal training_mixture, ")
    assert len(diff(audit, weights.digest, weights.digest).unread) == 2


def test_a_version_is_told_by_the_rows_that_its_export_was_made_of_and_not_by_those_of_its_equal(
    made: History,
) -> None:
    """Another training on other rows came out the same to the byte, and was exported later."""
    _, mixtures = equal_mixtures(made)
    base = made.base()
    weights = made.model("acme.one", mixtures[0], base, times=3)
    export, _ = made.release("acme.one", weights, base)
    plan = made._put(
        "training_plan", "tenants/acme/one", {"plan.json": {}}, {"training_mixture": mixtures[1]}
    )
    other = made.model("acme.one", mixtures[1], base, times=3, plan=plan)
    judged = made._put("evaluation", "tenants/acme/one", {"scores.json": 2}, {"fine_tuned_model": other})
    files = {"model.json": f"export of {weights.digest}"}
    inputs = {"fine_tuned_model": other, "evaluation": judged, "base_model": base}
    again = made._put("model_export", "tenants/acme/one", files, inputs)
    assert (again.digest, again.place == export.place) == (export.digest, False)
    audit = made.audit()
    for name in ("acme.one@1", "acme.one"):
        assert audit.model(name).place == weights.place


def test_a_parent_is_removed_though_equal_weights_of_another_variant_stand(made: History) -> None:
    base, rows = made.base(), [question(number) for number in range(30)]
    mixtures = [made.mixture(variant, made.dataset(variant, rows)) for variant in ("acme.one", "acme.two")]
    weights, others = (
        made.model(variant, mixture, base)
        for variant, mixture in zip(("acme.one", "acme.two"), mixtures, strict=True)
    )
    assert weights.digest == others.digest
    export, _ = made.release("acme.one", weights, base)
    derived = made.derived_base("acme.child", "acme.one", export, weights, base)
    other = made.dataset("acme.child", [question(number) for number in range(100, 120)])
    child = made.model("acme.child", made.mixture("acme.child", other), derived)
    made._remove(lambda one: one.place == weights.place)
    parent = present(model(made.audit(), child.digest).parent)
    assert (parent["gone"], parent["removed"] is None) == (False, False)
