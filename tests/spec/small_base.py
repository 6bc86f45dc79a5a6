"""A base of one tensor, enough to be named and measured."""

from __future__ import annotations

import json
from pathlib import Path


def lay_base(folder: Path, parameters: int = 1000) -> Path:
    """Write config.json and so many weights in bf16."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    )
    tensor = {"dtype": "BF16", "shape": [parameters], "data_offsets": [0, 2 * parameters]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(2 * parameters)
    (folder / "model.safetensors").write_bytes(content)
    return folder
