"""The frozen base lies in the pages of its file, which all processes that load it share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import json, re, sys
from pathlib import Path

import torch

from ft_dagster.methods.lora import LoraSettings
from ft_dagster.training.contract import Base
from ft_dagster.training.methods import taught_by

def anonymous():
    said = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous: +([0-9]+)", said, re.MULTILINE)[1]) * 1024

folder, precision = sys.argv[1:]
method = taught_by(LoraSettings(name="lora"))
method.build(Base(folder=folder, digest="0" * 64), precision, 0)  # imports, and what they keep
before = anonymous()
model = method.build(Base(folder=folder, digest="0" * 64), precision, 0)
weights = [weight for weight in model.parameters() if not weight.requires_grad]
assert all(torch.isfinite(weight.sum()) for weight in weights)  # every page was read
print(json.dumps([anonymous() - before, sum(weight.nbytes for weight in weights)]))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 42 MB in bf16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=10_000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
    )
    folder = tmp_path_factory.mktemp("mapped") / "base"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def grown(base: Path, precision: str) -> tuple[int, int]:
    """Bytes that a second load adds to a process' own memory, and bytes of the frozen weights."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, base, precision], check=True, capture_output=True, text=True
    )
    own, weights = json.loads(done.stdout.splitlines()[-1])
    return own, weights


@pytest.mark.long
def test_a_base_stored_as_it_is_trained_takes_no_memory_of_the_trainer(base: Path) -> None:
    own, weights = grown(base, "bf16")
    assert own < 0.1 * weights


@pytest.mark.long
def test_one_that_is_widened_does(base: Path) -> None:
    own, weights = grown(base, "fp32")
    assert own > 0.3 * weights  # not all of it: what the first load gave back is used again
