"""Which release a base starts from, and when it is no longer the newest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.models.derived import (
    added_tokens,
    check_adapter,
    named_source,
    newer_parent,
    parent_artifact,
    released_parent,
)
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import BaseModelSpec
from ft_dagster.store import Artifact, Store
from ft_dagster.store.make import Recipe, make_artifact
from tests.releases import adapter, release

CHILD = VariantKey("acme", "support")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def starting(store: Store, **spec: Any) -> Any:
    return released_parent(store, CHILD, BaseModelSpec(variant="acme.medical", **spec), file="support.yaml")


def base_on(store: Store, parent: Any) -> Artifact:
    """A base_model artifact as the stage makes it for a parent."""
    recipe = Recipe("base_model", "tenants/acme/support", parent.inputs, {"mode": parent.mode})
    return make_artifact(store, Path(store.root) / "work", recipe, lambda attempt: {"parent": parent.figures})


def test_a_parent_that_was_never_released_is_refused_with_what_to_run(store: Store) -> None:
    with pytest.raises(UserError) as caught:
        starting(store)
    error = caught.value
    assert error.problem == "no version of this variant is in production"
    assert (error.file, error.field, error.value) == ("support.yaml", "base_model.variant", "acme.medical")
    assert "ft-dagster run acme.medical" in error.fix


def test_the_release_in_production_is_the_parent(store: Store) -> None:
    release(store, "acme.medical", adapter(1))
    entry = release(store, "acme.medical", adapter(2))
    parent = starting(store)
    assert (parent.version, parent.mode, parent.export.digest) == (2, "fold", entry.export)
    assert parent.record["weights"] == entry.weights
    assert starting(store, parent_adapter="stack").mode == "stack"


def test_a_release_whose_export_is_gone_is_refused(store: Store) -> None:
    release(store, "acme.medical", adapter(1))
    folder = store.local("tenants/acme/medical/model_export")
    assert folder is not None
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="is released, but its export is no longer"):
        starting(store)


def test_a_whole_model_is_a_parent_but_nothing_to_stack_on(store: Store) -> None:
    release(store, "acme.medical", {"config.json": {"model_type": "llama"}})
    assert starting(store).mode == "whole"
    with pytest.raises(UserError, match="whole model") as caught:
        starting(store, parent_adapter="stack")
    assert caught.value.field == "base_model.parent_adapter"


@pytest.mark.parametrize(
    ("config", "mode", "word"),
    [
        ({"use_dora": True}, "stack", "DoRA"),
        ({"trainable_token_indices": {"embed_tokens": [7]}}, "stack", "trained tokens"),
        ({"modules_to_save": ["lm_head"]}, "stack", "whole trained modules"),
        ({"peft_type": "PROMPT_TUNING"}, "stack", "prompt"),
        ({"peft_type": "PREFIX_TUNING"}, "fold", "prompt"),
    ],
)
def test_an_adapter_that_cannot_be_started_from_says_why(
    store: Store, tmp_path: Path, config: dict[str, Any], mode: str, word: str
) -> None:
    release(store, "acme.medical", adapter(1, **config))
    parent = starting(store, parent_adapter=mode)
    with pytest.raises(UserError, match=word) as caught:
        check_adapter(parent, parent.export.folder(store, tmp_path) / "payload", file="support.yaml")
    assert caught.value.file == "support.yaml"


@pytest.mark.parametrize(
    ("config", "mode"), [({}, "stack"), ({}, "fold"), ({"use_dora": True}, "fold"), ({"r": 8}, "stack")]
)
def test_an_adapter_that_can_passes(store: Store, tmp_path: Path, config: dict[str, Any], mode: str) -> None:
    release(store, "acme.medical", adapter(1, **config))
    parent = starting(store, parent_adapter=mode)
    check_adapter(parent, parent.export.folder(store, tmp_path) / "payload")


def test_what_was_added_for_a_parent_counts_among_the_new_tokens_of_its_child(store: Store) -> None:
    def derived(prefix: str, tokens: list[str], parent: Any = None) -> Artifact:
        inputs, figures = ({}, None) if parent is None else (parent.inputs, parent.figures)
        recipe = Recipe("base_model", prefix, inputs, {"new_tokens": tokens, "at": prefix})
        return make_artifact(store, Path(store.root) / "work", recipe, lambda attempt: {"parent": figures})

    release(store, "acme.medical", adapter(1))
    parent = replace(starting(store), base=derived("tenants/acme/medical", ["<sku>", "<drug>"]))
    child = derived("tenants/acme/support", ["<dose>"], parent)
    assert added_tokens(store, child) == ["<dose>", "<sku>", "<drug>"]
    assert added_tokens(store, parent.base) == ["<sku>", "<drug>"]
    assert added_tokens(store, starting(store).base) == []


def test_the_source_of_a_base_is_that_of_the_first_of_its_parents(store: Store) -> None:
    def base(prefix: str, reference: str, parent: Any = None) -> Artifact:
        inputs, figures = ({}, None) if parent is None else (parent.inputs, parent.figures)
        recipe = Recipe("base_model", prefix, inputs, {"base": {"reference": reference}})
        return make_artifact(store, Path(store.root) / "work", recipe, lambda attempt: {"parent": figures})

    release(store, "acme.medical", adapter(1))
    first = replace(starting(store), base=base("shared", "theirs/base"))
    second = replace(first, base=base("tenants/acme/medical", "acme.first", first))
    child = base("tenants/acme/support", "acme.medical", second)
    assert {named_source(store, each) for each in (child, second.base, first.base)} == {"theirs/base"}


def test_another_release_of_the_parent_is_newer_the_same_bytes_are_not(store: Store) -> None:
    release(store, "acme.medical", adapter(1))
    base = base_on(store, starting(store))
    assert parent_artifact(store, base, "model_export").digest == base.inputs["model_export"]
    release(store, "acme.medical", adapter(1))
    assert newer_parent(store, CHILD, base) is None
    release(store, "acme.medical", adapter(2))
    assert newer_parent(store, CHILD, base) == (VariantKey("acme", "medical"), 2)
    assert newer_parent(store, CHILD, base_on(store, starting(store))) is None
    release(store, "acme.medical", adapter(1))  # back in production: what was made from it is up to date
    assert newer_parent(store, CHILD, base) is None
    assert newer_parent(store, CHILD, None) is None
