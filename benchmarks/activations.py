"""What does QLoRA keep for its backward pass with activations in bf16, and what in fp32? A table on stdout.

    .venv/bin/python benchmarks/activations.py [--layers 4] [--width 512] [--length 256]

A Llama with random weights, no checkpointing, 2 rows, a thread, both kinds and LoRA in one run. *Measured*:
the bytes of distinct tensors that autograd saves in the decoder's forward pass, weights apart, taught by the
method's own class and under autocast as the trainer is. *By the plan*: the dry run of the same step, head and
all. Figures are kept in `activations.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.project import HERE
from benchmarks.tables import markdown

LORA = {"name": "lora", "rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": "all-linear"}
CASES: dict[str, dict[str, Any]] = {
    "qlora, fp32": {**LORA, "name": "qlora"},
    "qlora, bf16": {**LORA, "name": "qlora", "activations": "bf16"},
    "lora": LORA,
}
ROWS, VOCABULARY = 2, 2048
FILE = HERE / "activations.json"


def write_base(folder: Path, layers: int, width: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=max(1, width // 128), tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def measured(folder: Path, method: Mapping[str, Any], length: int) -> int:
    """Bytes."""
    import torch

    from ft_dagster.training.contract import Base, method_settings
    from ft_dagster.training.methods import taught_by

    model = taught_by(method_settings(method)).build(Base(folder=folder, digest="b" * 64), "bf16", 0)
    decoder = model.train().get_base_model().model
    weights = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}
    held = []  # so that no storage is given to another tensor meanwhile

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    ids = torch.randint(VOCABULARY, (ROWS, length))
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        decoder(input_ids=ids, use_cache=False)
    return sum(saved.values())


def planned(folder: Path, method: Mapping[str, Any], length: int) -> int:
    """Bytes of activations where there are most."""
    from ft_dagster.planning.dryrun.footprint import footprint
    from ft_dagster.planning.dryrun.step import Step
    from ft_dagster.training.contract import method_settings

    step = Step(rows=ROWS, length=length, trained_positions=length // 2, packed=False)
    moments = footprint(folder, method_settings(method), step).moments.values()
    return max(moment.activations for moment in moments)


def main() -> None:
    import torch

    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, size in (("layers", 4), ("width", 512), ("length", 256)):
        asked.add_argument(f"--{name}", type=int, default=size)
    asked.add_argument("--file", type=Path, default=FILE)
    given = asked.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_base(folder, given.layers, given.width)
        for name, method in CASES.items():
            sizes = measured(folder, method, given.length), planned(folder, method, given.length)
            found[name] = dict(zip(("measured", "planned"), sizes, strict=True))
    shape = {"layers": given.layers, "width": given.width, "rows": ROWS, "length": given.length}
    given.file.write_text(json.dumps({"shape": shape, "bytes": found}, indent=1) + "\n", "utf-8")
    least = found["qlora, bf16"]
    rows = [
        [name, *(f"{one[how] / 1e6:,.1f} ({one[how] / least[how]:.2f})" for how in ("measured", "planned"))]
        for name, one in found.items()
    ]
    print(markdown(["method, activations", "measured, MB (to bf16)", "by the plan"], rows))


if __name__ == "__main__":
    main()
