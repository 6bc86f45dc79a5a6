"""What was made of an artifact by variants that are declared on its release."""

from __future__ import annotations

import shutil
from pathlib import Path

from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Artifact, Store, write_head
from ft_dagster.versions.data_changes import _before
from ft_dagster.versions.relatives import Kin, family, newest
from ft_dagster.workspace.workspace import Workspace
from tests import releases
from tests.fleet.manifests import put
from tests.present import present

PARENT = VariantKey("acme", "parent")


def parent_of(project: Path) -> Workspace:
    (project / "tenants" / "acme").mkdir(parents=True)
    return Workspace(load_settings(project), PARENT)


def test_children_of_the_newest_export_are_read_once_for_all_that_leads_to_it(tmp_path: Path) -> None:
    workspace, declared = parent_of(tmp_path), tmp_path / "tenants" / "acme"
    store, prefix = workspace.store, PARENT.prefix
    weights = put(store, "fine_tuned_model", prefix, {}, {"steps": 1})
    export = put(store, "model_export", prefix, {"fine_tuned_model": weights.digest}, {})
    for artifact in (weights, export):
        write_head(store, prefix, artifact, None)
    for name, digest in {"child": export.digest, "of_before": "0" * 64}.items():
        (declared / f"{name}.yaml").write_text("base_model: {variant: acme.parent}", "utf-8")
        theirs = f"tenants/acme/{name}"
        write_head(store, theirs, put(store, "base_model", theirs, {"model_export": digest}, {}), None)
    kin = Kin(workspace, newest(store, prefix))
    shown = [(one.artifact.place.stage, one.variant) for one in family(kin, weights).below]
    assert shown == [("model_export", None), ("base_model", "acme.child")]
    shutil.rmtree(declared)
    [again] = family(kin, export).below
    assert again.variant == "acme.child"


def made_of(store: Store, stage: str, name: str, **inputs: Artifact) -> Artifact:
    """By the manifests of its inputs; of equal bytes where the name is the same."""
    digests = {stage: each.digest for stage, each in inputs.items()}
    manifests = {stage: each.manifest for stage, each in inputs.items()}
    return put(store, stage, PARENT.prefix, digests, {}, name=name, manifests=manifests)


def equal_weights(store: Store) -> list[tuple[Artifact, Artifact]]:
    """Rows and what was trained on them, of equal bytes: the first five are released, as version 1."""
    pairs = []
    for number in range(5):
        rows = made_of(store, "task_dataset", f"rows {number}")
        mixture = made_of(store, "training_mixture", f"mixture {number}", task_dataset=rows)
        pairs.append((rows, made_of(store, "fine_tuned_model", "equal", training_mixture=mixture)))
    assert len({weights.digest for _, weights in pairs}) == 1
    pairs.sort(key=lambda pair: pair[1].place.key, reverse=True)  # the one in the middle comes first nowhere
    _, weights = pairs[2]
    releases.release(
        store, str(PARENT), releases.adapter(), weights.digest, weights_manifest=weights.manifest
    )
    return pairs


def test_equal_weights_of_other_rows_are_no_version(tmp_path: Path) -> None:
    workspace = parent_of(tmp_path)
    pairs = equal_weights(workspace.store)
    shown = [family(Kin(workspace, {}), weights).versions for _, weights in pairs]
    assert shown == [[], [], [1], [], []]


def test_an_equal_export_of_the_same_weights_is_the_version_and_one_of_other_weights_is_not(
    tmp_path: Path,
) -> None:
    """As where it was judged again by other gates: no second version is released of the same bytes."""
    workspace = parent_of(tmp_path)
    pairs, store = equal_weights(workspace.store), workspace.store
    for at, expected in ((2, [1]), (0, [])):
        weights = pairs[at][1]
        by = {"fine_tuned_model": weights.manifest}
        inputs = {"fine_tuned_model": weights.digest, "evaluation": f"evaluation {at}"}
        again = releases.put(store, "model_export", PARENT.prefix, releases.adapter(), inputs, manifests=by)
        assert family(Kin(workspace, {}), again).versions == expected


def test_rows_are_held_against_those_that_the_version_was_made_of_and_not_those_of_equal_weights(
    tmp_path: Path,
) -> None:
    workspace = parent_of(tmp_path)
    pairs = equal_weights(workspace.store)
    now = made_of(workspace.store, "task_dataset", "rows of now")
    version, rows = present(_before(workspace, now))
    assert (version, rows.place) == (1, pairs[2][0].place)
