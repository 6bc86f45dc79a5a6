"""A lease of several GPUs for what one does not hold, and a refusal where all of them do not."""

import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import USABLE_SHARE
from ft_dagster.evaluation.request import BaseFiles, SampledRequest
from ft_dagster.export.request import ExportRequest
from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.launcher import Job, Say
from ft_dagster.launch.leases import Leases
from ft_dagster.model_files.weights import measure_weights, weight_files
from ft_dagster.planning.context import base_facts_of
from ft_dagster.planning.judging import Judges, foresee
from ft_dagster.planning.judging import asked as judged
from ft_dagster.program import ProgramResult
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import declaration
from ft_dagster.stages.training_plan import after
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, write_project
from tests.export.exports import CARD
from tests.present import present

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")
GB = 10**9
FOUR = [3_900_000_000] * 4  # bytes of GPUs
FILES = {"config.json": "0" * 64}
SHAPES: dict[str, Any] = {  # of 1.04 billion weights: 2.1 GB in bf16
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048,
    "num_hidden_layers": 16, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 32_000, "tie_word_embeddings": True,
}  # fmt: skip


class Seen:
    """A launcher whose programs end when they start; `asks`: what was asked for each."""

    def __init__(self) -> None:
        self.asks: list[Any] = []

    def stage_in(self, job: Job) -> None: ...

    def start(self, job: Job, say: Say) -> Job:
        self.asks.append(job.ask)
        return job

    def report(self, started: Job, say: Say) -> int:
        return 0

    def cancel(self, started: Job) -> None: ...

    def collect(self, job: Job, started: Job, exit_code: int) -> ProgramResult:
        return {"status": "done", "figures": {}}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of a billion weights: its headers, and a hole in place of the numbers."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text(json.dumps(SHAPES))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES))
    header, end = {}, 0
    for name, weight in model.named_parameters():
        offsets = [end, end + 2 * weight.numel()]
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": offsets}
        end = offsets[1]
    said = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(said)) + said)
        file.truncate(8 + len(said) + end)
    return folder


@pytest.fixture
def desk(tmp_path: Path, tiny_model_folder: Path) -> Workspace:
    """Of a variant that asks for 1 GPU, on a host without any."""
    folder = write_project(tmp_path / "project", tiny_model_folder)
    edit(folder / "tenants" / "acme" / "places.yaml", lambda declared: declared.pop("resources", None))
    workspace = Workspace(load_settings(folder), KEY, RunOf(say=lambda line: None), launcher=Seen())
    workspace.make(declaration.STAGE)
    return workspace


def on(desk: Workspace, locks: Path, *memory: int, **more: Any) -> Workspace:
    """The same on a host with GPUs of so many bytes."""
    devices = tuple(Device(str(n), nbytes, "NVIDIA X") for n, nbytes in enumerate(memory))
    workspace = replace(desk)
    workspace.__dict__["leases"] = Leases(locks, Inventory("gpu", devices, cores=8), **more)
    return workspace


def asks(workspace: Workspace, program: str, request: Any, folder: Path) -> Any:
    (folder / "run").mkdir(exist_ok=True)
    figures = workspace.run_program(program, folder / "run", request, leased=True)["figures"]
    ask = workspace.launcher.asks[-1]  # type: ignore[union-attr]
    assert figures == ({} if program == "training" else {"devices": ask.count})
    return ask


def texts_of(base: Path, output: Path) -> SampledRequest:
    files = BaseFiles(folder=base, files=FILES)
    return SampledRequest(base=files, documents=1, tokens=2, device="cuda", output=output)


def test_what_one_gpu_does_not_hold_is_asked_of_several_and_they_are_lent(
    desk: Workspace, large: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    workspace = on(desk, tmp_path / "locks", *FOUR)
    one = asks(workspace, "evaluation.sampled", texts_of(tiny_model_folder, tmp_path), tmp_path)
    assert one.count == 1
    three = asks(workspace, "evaluation.sampled", texts_of(large, tmp_path), tmp_path)
    assert three.count == 3
    assert 2.1 * GB / 3 < three.memory_bytes < FOUR[0]
    with workspace.leases.acquire(three) as lease:
        assert lease.environment()["CUDA_VISIBLE_DEVICES"] == "0,1,2"


def test_a_certificate_in_float32_takes_more(desk: Workspace, large: Path, tmp_path: Path) -> None:
    workspace = on(desk, tmp_path / "locks", *FOUR)
    (tmp_path / "weights").mkdir()
    base = {"folder": large, "files": FILES, "digest": "0" * 64, "reference": "b"}
    asked_for = ExportRequest.model_validate(
        {
            "schema_version": 1, "base": base, "weights": tmp_path / "weights", "weights_digest": "0" * 64,
            "format": "adapter", "card": {**CARD, "weights": "0" * 64}, "probes": ["x"], "output": tmp_path,
            "device": "cuda",
        }
    )  # fmt: skip
    assert asks(workspace, "export", asked_for, tmp_path).count == 3
    (tmp_path / "weights" / "quantization.json").write_text('{"quantization": "nf4"}')
    assert asks(workspace, "export", asked_for, tmp_path).count == 1


def test_what_is_judged_on_a_cpu_is_not_held_against_the_gpus(
    desk: Workspace, large: Path, tmp_path: Path
) -> None:
    request = texts_of(large, tmp_path).model_copy(update={"device": "cpu"})
    assert asks(on(desk, tmp_path / "locks", 1 * GB), "evaluation.sampled", request, tmp_path).count == 1


def test_a_gpu_is_lent_that_holds_its_part_with_a_tenth_to_spare(
    desk: Workspace, large: Path, tmp_path: Path
) -> None:
    asked = asks(
        on(desk, tmp_path / "locks", *FOUR), "evaluation.sampled", texts_of(large, tmp_path), tmp_path
    )
    parameters, nbytes, _ = measure_weights(large, weight_files(large))
    devices = tuple(Device(str(n), nbytes, "NVIDIA X") for n, nbytes in enumerate(FOUR))
    judges = Judges(devices, len(FOUR), 1, "bfloat16")
    held = present(
        foresee("evaluation", judged(base_facts_of(parameters, nbytes, large), "bfloat16"), judges)
    )
    assert asked.memory_bytes == math.ceil(held.each_bytes / USABLE_SHARE)


def test_a_training_asks_for_what_is_declared(desk: Workspace, large: Path, tmp_path: Path) -> None:
    workspace = on(desk, tmp_path / "locks", *FOUR)
    assert asks(workspace, "training", texts_of(large, tmp_path), tmp_path).count == 1


def test_what_not_even_all_hold_is_refused(desk: Workspace, large: Path, tmp_path: Path) -> None:
    request = texts_of(large, tmp_path)
    few = on(desk, tmp_path / "locks", 1 * GB, 1 * GB)
    with pytest.raises(
        UserError, match=r"2\.1 GB of weights in bfloat16 are more than the 2\.0 GB"
    ) as raised:
        asks(few, "evaluation.sampled", request, tmp_path)
    error = raised.value
    assert (error.field, error.file) == ("base_model", str(desk.declared_in))
    assert "host.gpus" in str(error)
    held = on(desk, tmp_path / "locks", *[2 * GB] * 4, quota={"acme": 1})
    with pytest.raises(UserError, match=r"of the GPU that one program may have"):
        asks(held, "evaluation.sampled", request, tmp_path)


def test_a_plan_whose_model_could_not_be_judged_is_refused(chained: Workspace, tmp_path: Path) -> None:
    plan = present(chained.head("training_plan"))
    with pytest.raises(UserError, match=r"it cannot be judged: .* of weights in") as raised:
        after(on(chained, tmp_path / "locks", 100_000, 100_000), plan)
    assert (raised.value.field, raised.value.file) == ("base_model", str(chained.declared_in))
    after(on(chained, tmp_path / "locks", 2 * GB), plan)
