"""Kernels of layers with a state are told where an example ends, where they are installed and read it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ft_dagster.models.attention import attention_of
from ft_dagster.training.batches.apart import side_by_side
from ft_dagster.training.batches.attention import ENDS
from ft_dagster.training.batches.bounds import in_one_row, reads_bounds, state_kernels
from tests.tiny_classes import PLAIN, STATEFUL, tiny_config

BY_KERNELS = [kind for kind in STATEFUL if kind != "recurrent_gemma"]
KERNEL = '''
import torch

def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, activation=None):
    """Each example by itself, as the kernel of that name computes it."""
    def alone(part):
        padded = torch.nn.functional.pad(part, (weight.shape[-1] - 1, 0))
        return torch.nn.functional.conv1d(padded, weight.unsqueeze(1), bias, groups=part.shape[1])
    if seq_idx is None:
        return alone(x)
    sizes = seq_idx[0].unique_consecutive(return_counts=True)[1].tolist()
    return torch.cat([alone(part) for part in x.split(sizes, dim=2)], dim=2)
'''
MEASURED = """
import sys
from pathlib import Path
from ft_dagster.planning.dryrun.footprint import footprint
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.training.batches import apart
from ft_dagster.training.contract import method_settings
from tests.tiny_classes import tiny_config
file = Path(sys.argv[1])
file.write_text(tiny_config("lfm2").to_json_string(use_diff=False))
step = Step(rows=2, length=32, trained_positions=8)
print(footprint(file, method_settings({"name": "full"}), step).peak > 0)
print(apart._moved(apart._drawn(tiny_config("lfm2"))) < apart.MOVED)
print([apart.measured_leak(tiny_config(kind)) is None for kind in ("lfm2", "bamba")])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in BY_KERNELS if kind != "jamba"])  # which hands on none
def test_a_class_hands_the_bounds_of_examples_on_to_its_kernels(kind: str) -> None:
    """transformers refuses them where a kernel that would read them is missing, and names it."""
    config = tiny_config(kind)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config)).eval()
    batch = side_by_side(*(torch.arange(start, start + 8) for start in (100, 200, 300)))
    told = in_one_row(batch, batch[ENDS])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad(), pytest.raises(ValueError, match="can't keep packed sequences apart without"):
        model(**inputs, use_cache=False, **told)


@pytest.mark.parametrize("kind", BY_KERNELS)
def test_without_its_kernels_a_class_is_told_nothing(kind: str) -> None:
    config = tiny_config(kind)
    assert {each.installed for each in state_kernels(config)} == {False}
    assert not reads_bounds(config)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_class_without_kernels_is_told_nothing(kind: str) -> None:
    assert not reads_bounds(tiny_config(kind))


def test_rows_end_to_end_are_what_they_are_side_by_side() -> None:
    config = tiny_config("llama")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    batch = side_by_side(*(torch.arange(start, start + 8) for start in (100, 200, 300)))
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        rows = model(**inputs, use_cache=False).logits
        told = in_one_row(inputs, batch[ENDS])
        one = model(**inputs, use_cache=False).logits
    assert (one.view_as(rows) - rows).abs().max() < 1e-5
    assert told["seq_idx"].tolist() == [[0] * 8 + [1] * 8 + [2] * 8 + [3] * 8]
    assert told["cu_seq_lens_q"].tolist() == [0, 8, 16, 24, 32]


@pytest.mark.long
def test_with_a_kernel_that_reads_bounds_examples_are_apart_and_with_one_that_is_missing_not(
    tmp_path: Path,
) -> None:
    """A convolution of the kernel's name and arguments, in torch: all that lfm2 needs, half of bamba's."""
    (tmp_path / "causal_conv1d.py").write_text(KERNEL)
    there = os.pathsep.join([str(tmp_path), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "config.json")],
        env={**os.environ, "PYTHONPATH": there},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.splitlines()[-3:] == ["True", "True", "[True, False]"]
