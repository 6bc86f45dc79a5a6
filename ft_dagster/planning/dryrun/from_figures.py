"""Plans without a project: a declaration and facts made of a few figures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.methods.base_facts import Tensors
from ft_dagster.objectives import objective_of
from ft_dagster.planning.dryrun.architecture import architecture_file, configuration, shipped
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.shapes import Dimensions, dimensions_of, linear_shapes_of
from ft_dagster.spec import VariantSpec
from ft_dagster.training.methods.experts import tensors_of

TOKENS_PER_EXAMPLE = 250.0  # of instruction data, prompt and answer
TRAINED_SHARE = 0.5  # of them, where nothing is known
GENERAL_SHARE = 0.08  # in the middle of the usual 5 to 10%
FEWEST_PARAMETERS, MOST_PARAMETERS = 1e6, 1e13


@dataclass(frozen=True)
class Shapes:
    """Holds what a configuration says of the weights; tied ones counted once."""

    parameters: int
    linear_shapes: dict[str, list[list[int]]]
    tensors: Tensors
    dimensions: Dimensions


def shapes_of_configuration(file: Path) -> Shapes:
    """Read the shapes from a config.json alone. Raises UserError."""
    import torch
    from transformers import AutoModelForCausalLM

    config = configuration(file)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"is no causal language model: {str(error).splitlines()[0][:160]}",
            file=file,
            field="model_type",
            value=config.model_type,
            fix="Give the config.json of a model that generates text",
        ) from None
    parameters = sum(weight.numel() for weight in model.parameters())
    return Shapes(parameters, linear_shapes_of(model), tensors_of(model), dimensions_of(config))


def of_size(parameters: float, folder: Path) -> Path:
    """Write a config.json in `folder` of about so many parameters: the nearest shipped shape, its layers
    fitted.

    Raises UserError for a size that no language model has.
    """
    if not FEWEST_PARAMETERS <= parameters <= MOST_PARAMETERS:
        raise UserError(
            "no size of a language model", field="--params", value=parameters, fix="Write it as 13e9"
        )
    sizes = {name: shapes_of_configuration(file) for name, file in shipped().items()}
    name = min(sizes, key=lambda each: abs(math.log(sizes[each].parameters / parameters)))
    found = sizes[name]
    linear = sum(math.prod(shape) for shapes in found.linear_shapes.values() for shape in shapes)
    layer = linear / found.dimensions.layers
    layers = max(1, round((parameters - (found.parameters - linear)) / layer))
    content = json.loads(architecture_file(name).read_text("utf-8")) | {"num_hidden_layers": layers}
    content.pop("layer_types", None)
    file = folder / "config.json"
    file.write_text(json.dumps(content), "utf-8")
    return file


def declaration(given: dict[str, Any], general_share: float = GENERAL_SHARE) -> VariantSpec:
    """Make a declaration with these parts; general data at this share, and an export that any method has."""
    data: dict[str, Any] = {"sources": ["rows.jsonl"]}
    scored = objective_of(given["objective"]).judged_by == "score"
    evaluation: dict[str, Any] = {"kind": "label"} if scored else {}
    if general_share > 0:
        data["general"] = {"corpus": "general", "share": general_share}
    else:
        evaluation["general"] = []
    whole = {
        "description": "asked for",
        "owners": ["you@example.com"],
        "base_model": "model",
        "data": data,
        "evaluation": evaluation,
    }
    return VariantSpec.model_validate({**whole, **given})


def facts(
    shapes: Shapes,
    *,
    examples: int,
    tokens: int,
    max_length: int,
    general_share: float = GENERAL_SHARE,
    leak: str | None = None,
    **device: Any,
) -> Facts:
    """Make the facts of a plan. `leak`: see `Facts`. `device`: device_kind, ranks, device_memory, bf16."""
    return Facts(
        examples=examples,
        tokens=tokens,
        trained_tokens=max(1, round(TRAINED_SHARE * tokens)),
        general_share=general_share,
        max_length=max_length,
        parameters=shapes.parameters,
        base_bytes=2 * shapes.parameters,
        linear_shapes=shapes.linear_shapes,
        tensors=shapes.tensors,
        **shapes.dimensions._asdict(),
        **device,
        leak=leak,
    )
