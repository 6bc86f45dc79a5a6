"""Trains every weight, in fp32, and saves the model whole in bf16."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ft_dagster.program import write_json
from ft_dagster.strict_json import tagged
from ft_dagster.training.contract import Base
from ft_dagster.training.methods import Precision, TaughtBy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ft_dagster.training.methods import Weights

SHARD = "4GB"


class Full(TaughtBy):
    """Trains all weights of the base."""

    def build(self, base: Base, precision: Precision, seed: int) -> PreTrainedModel:
        """Make all weights trainable: in fp32, or under DeepSpeed in `precision`, since it keeps fp32
        masters.
        """
        from transformers.integrations.deepspeed import deepspeed_config

        from ft_dagster.training.methods.base import load_base, on_its_device

        sharded = deepspeed_config() is not None
        return load_base(base.folder, precision if sharded else "fp32", **on_its_device())

    def save(
        self, model: PreTrainedModel, payload: Path, base_digest: str, weights: Weights | None = None
    ) -> None:
        """Save a plain transformers folder. Rounded to bf16 without bias: to the nearest, small updates
        vanish.
        """
        import torch

        from ft_dagster.training.rounding import round_unbiased

        state = dict(model.state_dict()) if weights is None else weights
        rounded: dict[int, torch.Tensor] = {}  # tied weights stay one tensor
        for name, tensor in state.items():
            if tensor.is_floating_point():
                place = tensor.data_ptr()
                if place not in rounded:
                    rounded[place] = round_unbiased(name, tensor.detach().float().cpu(), torch.bfloat16)
                state[name] = rounded[place]
        model.save_pretrained(payload, state_dict=state, max_shard_size=SHARD)
        _settle_configuration(Path(model.config._name_or_path), payload)


def _settle_configuration(base: Path, payload: Path) -> None:
    """Write the base's own configuration with the dtype as saved: training's settings (no cache) are not
    its.
    """
    config = json.loads((base / "config.json").read_text("utf-8"))
    config.pop("torch_dtype", None)
    write_json(payload / "config.json", tagged({**config, "dtype": "bfloat16"}))
    generation = base / "generation_config.json"
    if generation.exists():
        shutil.copyfile(generation, payload / generation.name)
    else:
        (payload / generation.name).unlink(missing_ok=True)
