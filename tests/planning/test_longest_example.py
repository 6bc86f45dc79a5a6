"""How long an example may be, by what a base's config.json says of its context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.planning.longest_example import CONTEXT, beyond_context, context_length, longest_by_default
from ft_dagster.spec import VariantSpec
from tests.e2e.project import declaration

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"max_position_embeddings": 32768, "rope_scaling": YARN}, 131_072),
        ({"max_position_embeddings": 131_072, "rope_parameters": LLAMA}, 131_072),
        ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
        ({"n_positions": 512, "n_ctx": 512}, 512),
        ({"max_seq_len": 512, "attn_config": {"alibi": True}}, 512),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4}}, 16_384),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default", "factor": 4}}, 4096),
        ({"max_position_embeddings": 2048, "rope_scaling": "linear", "text_config": 7}, 2048),
        ({"max_position_embeddings": 2048, "rope_scaling": {**YARN, "factor": "4"}}, 2048),
        ({"max_position_embeddings": "2048"}, None),
        ({"max_position_embeddings": 1e999}, None),
        ({"max_position_embeddings": -1}, None),
        ({"state_size": 16}, None),
        ({}, None),
    ],
)
def test_a_bases_context_is_what_its_configuration_says(
    tmp_path: Path, config: dict[str, Any], length: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(tmp_path) == length
    assert longest_by_default(tmp_path) == min(1024, length or 1024)


@pytest.mark.slow  # imports the configurations of all architectures
def test_every_name_that_transformers_has_for_a_context_is_known() -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kinds = [CONFIG_MAPPING[name] for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
    names = {kind.attribute_map.get(CONTEXT[0], CONTEXT[0]) for kind in kinds}
    assert "n_positions" in names
    assert names <= set(CONTEXT)


@pytest.mark.parametrize(("declared", "warned"), [(None, False), (2048, False), (2049, True)])
def test_examples_longer_than_the_bases_context_are_warned_of(
    tmp_path: Path, declared: int | None, warned: bool
) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    spec = VariantSpec.model_validate(declaration(tmp_path, training={"max_length": declared}))
    assert beyond_context(spec, tmp_path) == (
        [
            "training.max_length 2,049 is beyond the 2,048 tokens that the base was made for: it has not "
            "learned to read what comes after them; say at most 2,048"
        ]
        if warned
        else []
    )
