"""A base in nf4 that an earlier training kept: the bits of one quantized anew, or it counts for nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ft_dagster.training.kept_base import SEAL, KeptBase, base_kept_or_made, forget, identity_of, kept_bases
from ft_dagster.training.methods import base
from tests.long import mostly_long
from tests.training.runs import LORA, Runs, payload_bytes, train

pytestmark = pytest.mark.slow
ASKED = {"base": "b" * 64}


def keeping(runs: Runs, name: str, folder: Path, method: dict[str, Any], **training: Any) -> Path:
    """A run whose base may be kept in a folder."""
    run_folder = runs.prepare(name, method={**LORA, **method}, training={"precision": "bf16", **training})
    content = json.loads((run_folder / "run.json").read_text())
    content["base"]["kept_in"] = str(folder)
    (run_folder / "run.json").write_text(json.dumps(content))
    return run_folder


def held(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.long
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_next_training_takes_it_and_comes_out_the_same(
    runs: Runs, tmp_path: Path, loads: list[Path], precision: str
) -> None:
    folder = tmp_path / "quantized"
    other = {"rank": 2, "dropout": 0.0, "target_modules": ["q_proj"]}
    for name, changes in (("one", {}), ("other", other)):
        method = {"name": "qlora", **changes}
        alone = runs.prepare(f"alone-{name}", method={**LORA, **method}, training={"precision": precision})
        kept = keeping(runs, f"kept-{name}", folder, method, precision=precision)
        assert [train(alone), train(kept)] == [0, 0]
        assert payload_bytes(kept) == payload_bytes(alone)
    (place,) = held(folder)
    assert loads == [runs.base, runs.base, runs.base, place]


@pytest.mark.parametrize("method", mostly_long(["lora", "lora_8bit"], ["lora"]))
def test_only_nf4_is_kept(runs: Runs, tmp_path: Path, method: str) -> None:
    assert train(keeping(runs, "run", tmp_path / "quantized", {"name": method})) == 0
    assert held(tmp_path / "quantized") == []


def test_another_precision_and_another_number_of_threads_are_another_base() -> None:
    threads = torch.get_num_threads()
    one = identity_of("b" * 64, "bf16")
    try:
        torch.set_num_threads(threads + 1)
        assert identity_of("b" * 64, "bf16") != one
    finally:
        torch.set_num_threads(threads)
    assert len({str(x) for x in (one, identity_of("b" * 64, "fp32"), identity_of("c" * 64, "bf16"))}) == 3


def small(folder: Path) -> PreTrainedModel:
    return base.load_base(folder, "fp32")


def kept(folder: Path, model: Path) -> Path:
    """The place of a model that was kept."""
    base_kept_or_made(folder, ASKED, lambda: small(model), small)
    (place,) = held(folder)
    return place


@pytest.mark.parametrize("damage", ["a bit", "cut", "no seal", "another seal", "no configuration", "more"])
def test_a_damaged_one_counts_for_nothing_and_is_made_again(
    tmp_path: Path, tiny_model_folder: Path, damage: str
) -> None:
    place = kept(tmp_path, tiny_model_folder)
    weights, seal = place / "model.safetensors", place / SEAL
    whole = weights.read_bytes()
    if damage == "a bit":
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "cut":
        weights.write_bytes(whole[:-1])
    elif damage == "no seal":
        seal.unlink()
    elif damage == "another seal":
        seal.write_text(seal.read_text().replace("b" * 64, "c" * 64))
    elif damage == "no configuration":
        (place / "config.json").unlink()
    else:
        (place / "adapter_config.json").write_text("{}")
    made: list[Path] = []

    def make() -> PreTrainedModel:
        made.append(tiny_model_folder)
        return small(tiny_model_folder)

    for _ in range(2):
        base_kept_or_made(tmp_path, ASKED, make, small)
    assert made == [tiny_model_folder]
    assert held(tmp_path) == [place]
    assert weights.read_bytes() == whole


def test_of_two_makers_one_is_kept_and_both_have_a_model(tmp_path: Path, tiny_model_folder: Path) -> None:
    models: list[PreTrainedModel] = []

    def make() -> PreTrainedModel:
        if not models:
            models.append(base_kept_or_made(tmp_path, ASKED, lambda: small(tiny_model_folder), small))
        return small(tiny_model_folder)

    models.append(base_kept_or_made(tmp_path, ASKED, make, small))
    assert len(models) == 2
    assert len(held(tmp_path)) == 1
    base_kept_or_made(tmp_path, ASKED, lambda: pytest.fail("it is kept"), small)


@pytest.mark.long
def test_a_killed_maker_leaves_a_draft_that_nobody_takes(tmp_path: Path, tiny_model_folder: Path) -> None:
    maker = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from ft_dagster.training import kept_base\nfrom ft_dagster.training.methods.base import load_base\n"
        "kept_base.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "load = lambda folder: load_base(Path(folder), 'fp32')\n"
        f"kept_base.base_kept_or_made(Path(sys.argv[1]), {ASKED!r}, lambda: load(sys.argv[2]), load)\n"
    )
    command = [sys.executable, "-c", maker, str(tmp_path), str(tiny_model_folder)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    (draft,) = kept_bases(tmp_path)
    assert draft.bytes > 0
    base_kept_or_made(tmp_path, ASKED, lambda: small(tiny_model_folder), small)
    assert len(held(tmp_path)) == 2
    assert forget(draft)
    base_kept_or_made(tmp_path, ASKED, lambda: pytest.fail("it is kept"), small)


def test_it_is_not_kept_where_a_training_would_want_for_room(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    base_kept_or_made(tmp_path / "quantized", ASKED, lambda: small(tiny_model_folder), small)
    assert held(tmp_path / "quantized") == []


def test_where_it_cannot_be_kept_it_is_said_and_trained_all_the_same(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    run_folder = keeping(runs, "run", tmp_path / "file" / "quantized", {"name": "qlora"})
    assert train(run_folder) == 0
    assert "the quantized base is not kept: NotADirectoryError" in capsys.readouterr().out


def test_one_that_was_taken_since_it_was_listed_stays(tmp_path: Path, tiny_model_folder: Path) -> None:
    place = kept(tmp_path, tiny_model_folder)
    os.utime(place / SEAL, (time.time() - 1000,) * 2)
    (listed,) = kept_bases(tmp_path)
    assert listed == KeptBase(place, sum(f.stat().st_size for f in place.iterdir()), listed.used)
    base_kept_or_made(tmp_path, ASKED, lambda: pytest.fail("it is kept"), small)
    assert not forget(listed)
    (again,) = kept_bases(tmp_path)
    assert again.used > listed.used
    assert forget(again)
    assert held(tmp_path) == []
