"""What was made of an artifact by variants that are declared on its release."""

from __future__ import annotations

import shutil
from pathlib import Path

from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import write_head
from ft_dagster.versions.relatives import Kin, family, newest
from ft_dagster.workspace.workspace import Workspace
from tests.fleet.manifests import put

PARENT = VariantKey("acme", "parent")


def test_children_of_the_newest_export_are_read_once_for_all_that_leads_to_it(tmp_path: Path) -> None:
    declared = tmp_path / "tenants" / "acme"
    declared.mkdir(parents=True)
    workspace = Workspace(load_settings(tmp_path), PARENT)
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
