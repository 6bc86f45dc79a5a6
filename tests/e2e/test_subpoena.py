"""The subpoena drill: what a model was trained on is told by the store alone, after all else is gone; and the
model is made again from it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.audit.answers import DIVERGED, EQUIVALENT, EXACT, ReplayAnswer, StageReplayed
from ft_dagster.audit.audit import open_audit
from ft_dagster.audit.models import at
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import INHERITED, TRAINED, record
from ft_dagster.audit.replay.recipe import JUDGED, REBUILT, CleanProject, lay_out, recorded_of
from ft_dagster.audit.replay.replay import Rebuilt, compare
from ft_dagster.audit.replay.replay_judged import judge_again
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.trained import training_records
from ft_dagster.audit.verify.verify import verify
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row
from ft_dagster.provenance.code import PACKAGE, source_digest
from ft_dagster.provenance.digest import FileDigest, payload_digest, sha256_file
from ft_dagster.settings import Settings, load_settings
from ft_dagster.stage_entries import ENTRIES, version_of
from ft_dagster.store import Store, read_head
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import DAY, claim_removal, finish_removal
from ft_dagster.strict_json import dumps
from tests.e2e.project import (
    command_environment,
    declaration,
    rows,
    write_lines,
    write_project,
    write_yaml,
)
from tests.e2e.workshop import Workshop
from tests.present import present
from tests.stage_version import set_version

pytestmark = pytest.mark.long
PARENT, CHILD = "acme.places", "acme.colours"
PARENT_PREFIX, COLOURS = "tenants/acme/places", "tenants/acme/colours"


@pytest.fixture(scope="module")
def left(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Iterator[tuple[Settings, dict[str, Any]]]:
    """What is left of a project whose second variant was stacked on the first one's release, and what was
    noted of both before declarations, partitions, Dagster's database and the meaning of the stages went.
    """
    folder = tmp_path_factory.mktemp("subpoena") / "project"
    base = Path("models/tiny")  # counts from the project
    shutil.copytree(tiny_model_folder, folder / base)
    write_project(folder, base)
    colours = [
        {"instruction": f"Which colour has house {n}?", "output": f"House {n} is red."} for n in range(60)
    ]
    write_lines(folder / "data" / "colours.jsonl", colours)
    content = declaration(base, base_model={"variant": PARENT, "parent_adapter": "stack"})
    content["data"]["sources"] = ["data/colours.jsonl"]
    content["training"].update(num_train_epochs=2, evaluations=1)
    write_yaml(folder / "tenants" / "acme" / "colours.yaml", content)
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        for variant in (PARENT, CHILD):
            assert shop.materialize(variant).success
        noted = {"rows": list(trained_rows(shop)), "weights": weights(shop)}
        forge_events(shop)
        for variant in (PARENT, CHILD):
            instance.delete_dynamic_partition(PARTITIONS, variant)
    shutil.rmtree(folder / "tenants" / "acme")
    shutil.rmtree(folder / ".ft_dagster" / "dagster_home", ignore_errors=True)
    shutil.rmtree(folder / ".ft_dagster" / "work")
    with pytest.MonkeyPatch.context() as patch:
        for stage in ENTRIES:
            set_version(patch, stage, version_of(stage) + 1)
        yield shop.settings, noted


def trained_rows(shop: Workshop) -> Iterator[Row]:
    dataset = present(read_head(shop.store, "tenants/acme/places", "task_dataset"))
    payload = dataset.folder(shop.store, shop.settings.cache_folder) / "payload"
    return read_split(payload / "train.parquet")


def weights(shop: Workshop) -> dict[str, str]:
    prefixes = {PARENT: "tenants/acme/places", CHILD: "tenants/acme/colours"}
    found = {name: read_head(shop.store, prefix, "fine_tuned_model") for name, prefix in prefixes.items()}
    return {name: present(one).digest for name, one in found.items()}


def forge_events(shop: Workshop) -> None:
    """A materialization that no run made, which says that the weights are others."""
    forged = dg.AssetMaterialization(
        "fine_tuned_model", partition=PARENT, tags={"dagster/data_version": "0" * 64, "ft/tenant": "globex"}
    )
    shop.instance.report_runless_asset_event(forged)


def test_the_exact_training_records_of_that_day_are_told(left: tuple[Settings, dict[str, Any]]) -> None:
    settings, noted = left
    audit = open_audit(settings)
    today = datetime.now(UTC).date().isoformat()
    found = at(audit, PARENT, today)
    assert found.model.weights == noted["weights"][PARENT]
    [source, general] = found.model.sources
    assert (source.path, general.path) == ("data/rows.jsonl", "general:data/general.jsonl")
    told = {one.identity: one for one in training_records(audit, audit.model(found.model.weights))}
    own = {identity for identity, one in told.items() if not str(one.facts["source"]).startswith("general:")}
    assert own == {row.identity.hex() for row in noted["rows"]}
    for row in noted["rows"]:
        turns = [message.for_template() for message in row.messages]
        assert told[row.identity.hex()].content == {"messages": turns}
        assert told[row.identity.hex()].times >= 1
    assert len(told) == found.records > len(own)


def test_a_record_leads_to_both_models(left: tuple[Settings, dict[str, Any]]) -> None:
    settings, noted = left
    audit = open_audit(settings)
    seen = {row.identity for row in noted["rows"]}
    asked = next(one for row in rows() if (one := parse_record(json.dumps(row))).identities[0] in seen)
    found = record(audit, asked)
    assert {(one.variant, one.weights, one.how) for one in found.models} == {
        (PARENT, noted["weights"][PARENT], TRAINED),
        (CHILD, noted["weights"][CHILD], INHERITED),
    }
    assert all(one.releases[0].production for one in found.models)
    assert all(one.inclusion is not None for one in found.found)


def test_all_that_is_left_still_verifies(left: tuple[Settings, dict[str, Any]]) -> None:
    assert verify(open_audit(left[0])).problems == ()


def test_a_byte_of_any_file_that_is_another_is_noticed_and_the_file_named(
    left: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    """Each file of every artifact, the first of each in one check, then the second, and so on."""
    settings = load_settings(shutil.copytree(left[0].project, tmp_path / "copy"))
    store = settings.open_store()
    artifacts = [one for keyed in contents_of(store).keyed.values() for one in keyed.committed]
    files = [[f"{one.path}/{name}" for name in sorted(one.files)] for one in artifacts]
    rounds = [list(filter(None, some)) for some in zip_longest(*files)]
    rounds.append([one.manifest_path for one in artifacts])
    log = f"{PARENT_PREFIX}/releases"
    code = [f"shared/code/{name}" for name in store.names("shared/code")]
    rounds += [[f"{log}/000001.json", *code], [f"{log}/head.json"]]
    open_audit(settings).index.close()  # a byte of a manifest is noticed by who knew it
    kinds = set()
    for some in rounds:
        for name in some:
            flip(present(store.local(name)))
        problems = verify(open_audit(settings), fresh=True).problems
        for name in some:
            said = f"{PARENT_PREFIX}/releases/000001.json" if name.endswith("head.json") else name
            assert any(said in line for line in problems), (name, problems)
            kinds.add(name.rpartition("/")[2])
            flip(present(store.local(name)))
    assert {"ledger.json", "measured.json", "certificate.json", "manifest.json", "head.json"} <= kinds
    assert verify(open_audit(settings), fresh=True).holds


def flip(file: Path) -> None:
    """The lowest bit of the byte in its middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)


def test_a_proof_is_small_and_checked_without_the_store(
    left: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    settings, noted = left
    audit = open_audit(settings)
    identity = noted["rows"][0].identity.hex()
    proof = tmp_path / "proof.json"
    proof.write_text(dumps(prove(audit, parse_record(identity), audit.model(PARENT)), indent=1), "utf-8")
    assert proof.stat().st_size < 64_000
    found = check(proof, parse_record(identity))
    assert (found.variant, found.model) == (PARENT, noted["weights"][PARENT])


@pytest.fixture(scope="module")
def changed_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of another day: a package that neither mixes nor trains."""
    folder = tmp_path_factory.mktemp("changed")
    package = shutil.copytree(PACKAGE, folder / "ft_dagster", ignore=shutil.ignore_patterns("__pycache__"))
    for file, function in (
        ("data/mixture/mixture.py", "build_mixture"),
        ("training/trainer.py", "train_member"),
    ):
        assert f"\ndef {function}(" in (package / file).read_text("utf-8")
        with (package / file).open("a", encoding="utf-8") as code:
            code.write(f"\ndef {function}(*given, **more):\n    raise RuntimeError('changed')\n")
    return folder


@pytest.fixture(scope="module")
def replayed(
    left: tuple[Settings, dict[str, Any]], changed_code: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder in which the second variant, which starts from the first one's release, was made again by
    the command of the changed code, and what that said.
    """
    folder = tmp_path_factory.mktemp("replay") / "kept"
    words = ["audit", "replay", CHILD, "--json", "--keep", str(folder)]
    environment = {**command_environment(left[0].project), "PYTHONPATH": str(changed_code)}
    command = [sys.executable, "-c", "from ft_dagster.cli import main; main()", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.long
def test_a_model_on_a_release_is_made_again_byte_for_byte_by_the_code_of_that_day(
    left: tuple[Settings, dict[str, Any]], replayed: tuple[Path, dict[str, Any]]
) -> None:
    _, told = replayed
    assert (told["verdict"], told["weights"]) == (EXACT, left[1]["weights"][CHILD])
    assert [stage["stage"] for stage in told["stages"]] == [*REBUILT, *JUDGED]
    assert [stage["rebuilt"] for stage in told["stages"]] == [stage["recorded"] for stage in told["stages"]]
    assert {stage["code"] for stage in told["stages"]} == {source_digest()}
    assert told["differs"] == told["figures"] == {}


def test_a_replay_starts_at_the_data_set_where_its_sources_are_gone(
    left: tuple[Settings, dict[str, Any]], tmp_path: Path
) -> None:
    settings = load_settings(shutil.copytree(left[0].project, tmp_path / "copy"))
    file = settings.project / "data" / "colours.jsonl"
    file.write_text(file.read_text("utf-8") + "\n", "utf-8")
    (settings.cache_folder / "hub" / "models--a--b").mkdir(parents=True)
    audit = open_audit(settings)
    recorded = recorded_of(audit, audit.model(CHILD))
    clean = lay_out(audit, recorded, tmp_path / "clean")
    assert clean.from_dataset == "data/colours.jsonl is gone, or another by now"
    dataset = present(read_head(clean.store, COLOURS, "task_dataset"))
    assert dataset.digest == recorded.rebuilt["task_dataset"].digest
    assert not (clean.folder / "data").exists()
    assert (clean.folder / "work" / "cache" / "hub" / "models--a--b").is_dir()
    assert (clean.folder / "models" / "tiny").resolve() == settings.project / "models" / "tiny"


@pytest.fixture
def rebuilt(replayed: tuple[Path, dict[str, Any]]) -> Rebuilt:
    clean = Store(str(replayed[0] / "project" / "store"))
    project = CleanProject(replayed[0] / "project", clean, COLOURS, "")
    told = (StageReplayed(**stage) for stage in replayed[1]["stages"])
    stages = tuple(stage for stage in told if stage.stage in REBUILT)
    return Rebuilt(project, stages, present(read_head(clean, COLOURS, "fine_tuned_model")))


@pytest.mark.long
def test_weights_that_retention_removed_are_held_to_what_it_keeps(
    left: tuple[Settings, dict[str, Any]], rebuilt: Rebuilt, tmp_path: Path
) -> None:
    settings = load_settings(shutil.copytree(left[0].project, tmp_path / "copy"))
    store = settings.open_store()
    weights = present(read_head(store, COLOURS, "fine_tuned_model"))
    assert claim_removal(store, weights, "retention", time.time() + DAY)
    finish_removal(store, weights)
    audit = open_audit(settings)
    found = compare(audit, recorded_of(audit, audit.model(CHILD)), rebuilt)
    assert (found.verdict, found.weights) == (EXACT, left[1]["weights"][CHILD])


@pytest.fixture
def forged(left: tuple[Settings, dict[str, Any]], rebuilt: Rebuilt, tmp_path: Path) -> Any:
    """Compares what was made again with a record that was changed: `change(predicate, evidence folder)`."""
    settings = load_settings(shutil.copytree(left[0].project, tmp_path / "copy"))

    def compared(change: Callable[[dict[str, Any], Path], None]) -> ReplayAnswer:
        store = settings.open_store()
        artifact = present(read_head(store, COLOURS, "fine_tuned_model"))
        manifest = store.read_json(artifact.manifest_path)
        change(manifest["predicate"], present(store.local(artifact.path)) / "evidence")
        predicate = manifest["predicate"]
        payload = [FileDigest(**file) for file in predicate["payload"]]
        predicate["digest"] = payload_digest(payload)
        manifest["subject"] = [{"name": f.path, "digest": {"sha256": f.sha256}} for f in payload]
        store.write_json(artifact.manifest_path, manifest)
        audit = open_audit(settings, again=True)
        [model] = audit.index.of_stage("fine_tuned_model", COLOURS)
        return compare(audit, recorded_of(audit, model), rebuilt)

    return compared


def other_weights(predicate: dict[str, Any], evidence: Path) -> None:
    predicate["payload"][0]["sha256"] = "0" * 64


@pytest.mark.long
def test_a_batch_that_the_ledger_has_otherwise_is_named_by_its_step(forged: Any) -> None:
    def change(predicate: dict[str, Any], evidence: Path) -> None:
        ledger = json.loads((evidence / "ledger.json").read_text("utf-8"))
        ledger["batches"][6] = "0" * 64
        (evidence / "ledger.json").write_text(json.dumps(ledger), "utf-8")
        [listed] = [file for file in predicate["evidence"] if file["path"] == "ledger.json"]
        listed |= {"size": (evidence / "ledger.json").stat().st_size}
        listed |= {"sha256": sha256_file(evidence / "ledger.json")}

    found = forged(change)
    assert (found.verdict, found.first, found.step) == (DIVERGED, "fine_tuned_model", 7)
    assert found.said == "step 7 had another batch than the ledger says"


@pytest.mark.long
def test_other_weights_by_another_library_are_equivalent_while_losses_are_near(forged: Any) -> None:
    def change(predicate: dict[str, Any], evidence: Path) -> None:
        other_weights(predicate, evidence)
        predicate["environment"]["libraries"]["torch"] = "2.0.0"
        predicate["figures"]["validation_loss_best"] *= 1.001
        predicate["figures"]["computed_on"] = "CPU with less, threads: 1"

    found = forged(change)
    assert found.verdict == EQUIVALENT
    assert found.differs["torch"][0] == "2.0.0"
    before, after = found.differs["computed on"]
    assert before == "CPU with less, threads: 1"
    assert after.startswith("CPU with ")
    recorded, rebuilt = found.figures["validation_loss_best"]
    assert recorded == pytest.approx(1.001 * rebuilt)


@pytest.mark.long
def test_other_weights_by_another_library_diverged_where_a_loss_is_far(forged: Any) -> None:
    def change(predicate: dict[str, Any], evidence: Path) -> None:
        other_weights(predicate, evidence)
        predicate["environment"]["libraries"]["torch"] = "2.0.0"
        predicate["figures"]["validation_loss_best"] *= 1.1

    assert forged(change).verdict == DIVERGED


@pytest.mark.long
def test_other_weights_in_the_same_environment_diverged(forged: Any) -> None:
    def change(predicate: dict[str, Any], evidence: Path) -> None:
        other_weights(predicate, evidence)
        predicate["figures"]["micro_batch_halved"] = True

    found = forged(change)
    assert (found.verdict, found.first, found.step) == (DIVERGED, "fine_tuned_model", None)
    assert found.differs == {}
    assert found.figures == {"micro_batch_halved": (True, False)}


@pytest.fixture
def judged_again(left: tuple[Settings, dict[str, Any]], rebuilt: Rebuilt, tmp_path: Path) -> Any:
    """What comes of exact weights whose evaluation or export was recorded otherwise: `change(predicate)`."""
    folder = shutil.copytree(rebuilt.project.folder, tmp_path / "clean")
    clean = replace(rebuilt.project, folder=folder, store=Store(str(folder / "store")))

    def compared(stage: str, change: Callable[[dict[str, Any]], None]) -> ReplayAnswer:
        audit = open_audit(left[0])
        recorded = recorded_of(audit, audit.model(CHILD))
        made = {name: present(read_head(clean.store, COLOURS, name)) for name in JUDGED}
        change(made[stage].predicate)
        answer = compare(audit, recorded, rebuilt)
        assert answer.verdict == EXACT
        return judge_again(audit, recorded, clean, answer, made.__getitem__)

    return compared


def another(predicate: dict[str, Any]) -> None:
    predicate["digest"] = "0" * 64


def another_elsewhere(predicate: dict[str, Any]) -> None:
    another(predicate)
    predicate["environment"]["libraries"]["torch"] = "2.0.0"


@pytest.mark.long
@pytest.mark.parametrize("stage", JUDGED)
def test_what_was_made_of_exact_weights_is_held_to_its_record(judged_again: Any, stage: str) -> None:
    found = judged_again(stage, another)
    assert (found.verdict, found.first) == (DIVERGED, stage)
    assert f"{stage} came out as another" in found.said
    found = judged_again(stage, another_elsewhere)
    assert (found.verdict, found.first) == (EQUIVALENT, None)
    assert set(found.differs) == {"torch"}


@pytest.mark.long
def test_an_evaluation_by_other_scores_is_no_equivalent_one(judged_again: Any) -> None:
    def change(predicate: dict[str, Any]) -> None:
        another_elsewhere(predicate)
        predicate["figures"]["scores"][0]["value"] *= 1.1

    found = judged_again("evaluation", change)
    assert (found.verdict, found.first) == (DIVERGED, "evaluation")
    assert len(found.figures) == 1


@pytest.mark.long
def test_what_was_asked_on_another_device_is_not_made_again_and_says_so(
    left: tuple[Settings, dict[str, Any]], rebuilt: Rebuilt
) -> None:
    audit = open_audit(left[0])
    recorded = recorded_of(audit, audit.model(CHILD))
    audit.artifact(recorded.judged["evaluation"]).spec["device"] = "cuda"
    answer = compare(audit, recorded, rebuilt)
    found = judge_again(audit, recorded, rebuilt.project, answer, lambda stage: pytest.fail("it was made"))
    assert found.verdict == EXACT
    assert [stage.said for stage in found.stages[-2:]] == [
        "not made again: it was asked on cuda, and this host has cpu alone"
    ] * 2


def test_a_day_before_has_no_answer(left: tuple[Settings, dict[str, Any]]) -> None:
    audit = open_audit(left[0])
    yesterday = (datetime.now(UTC) - timedelta(days=2)).date().isoformat()
    with pytest.raises(Exception, match="its first release was at"):
        at(audit, PARENT, yesterday)
