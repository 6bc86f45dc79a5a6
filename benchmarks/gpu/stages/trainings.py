"""Run folders for the trainer program over made mixtures, and what a run leaves: figures, losses, weights."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.common import Wrong, child, read_json, write_json

LORA = {"name": "lora", "rank": 8, "alpha": 16.0, "dropout": 0.0, "target_modules": "all-linear"}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "lora": LORA,
    "qlora": {**LORA, "name": "qlora"},
    "lora_8bit": {**LORA, "name": "lora_8bit"},
    "prompt_tuning": {"name": "prompt_tuning", "num_virtual_tokens": 8},
    "prefix_tuning": {"name": "prefix_tuning", "num_virtual_tokens": 8},
}
QUANTIZED = ("qlora", "lora_8bit")
WORDS = 380  # token ids that every tokenizer of the lane has, above ten special ones
TRAINING, TOGETHER = "ft_dagster.training", "stages.together"
Example = tuple[list[int], list[int]]  # token ids, flattened spans of trained positions


def short_rows(count: int, seed: int, words: int = WORDS) -> list[Example]:
    """Arithmetic runs of 8 to 24 token ids, easy to learn; the second half is trained on."""
    drawn = random.Random(seed)
    rows = []
    for _ in range(count):
        length, start, stride = drawn.randint(8, 24), drawn.randint(0, words), drawn.choice([1, 2, 3])
        ids = [10 + (start + stride * at) % words for at in range(length)]
        rows.append((ids, [length // 2, length]))
    return rows


def full_rows(bins: int, length: int, words: int = WORDS) -> list[Example]:
    """Two examples of half the length for each bin, which packing fills; the last half of each is trained."""
    half = length // 2
    drawn = random.Random(length)
    return [([10 + drawn.randrange(words) for _ in range(half)], [half // 2, half]) for _ in range(2 * bins)]


def write_mixture(folder: Path, **splits: Sequence[Example]) -> Path:
    """A mixture with a shard for each split (train, validation, general_holdout)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.rmtree(folder, ignore_errors=True)
    for split, rows in splits.items():
        columns = {
            "input_ids": pa.array([ids for ids, _ in rows], pa.list_(pa.int32())),
            "trained_spans": pa.array([spans for _, spans in rows], pa.list_(pa.int32())),
            "source": pa.array(["made.jsonl"] * len(rows)),
            "record": pa.array(
                [hashlib.sha256(f"{split}/{at}".encode()).hexdigest() for at in range(len(rows))]
            ),
        }
        file = folder / split / "shard-00000.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), file, compression="zstd")
    return folder


@dataclass(frozen=True)
class Training:
    """One training by the trainer program: what goes into run.json, and what it left."""

    folder: Path
    model: Path
    mixture: Path
    device: str
    method: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self) -> Path:
        """A fresh run folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        base = {"folder": str(self.model), "digest": "b" * 64}
        run = {"run_id": self.folder.name, "base": base, "members": [self.member()]}
        write_json(self.folder / "run.json", run)
        return self.folder

    def member(self) -> dict[str, Any]:
        """Its entry in run.json."""
        training = {
            "learning_rate": 1e-3, "num_train_epochs": 1.0, "per_device_train_batch_size": 2,
            "max_length": 48,
            "precision": "fp32", "evaluations": 1, "keep_best": 1, "keep_last": 1, **self.settings,
        }  # fmt: skip
        plan = {"method": self.method, "training": training, "device": {"kind": self.device, "count": 1}}
        return {
            "variant": f"lane.{self.folder.name.replace('_', '-')}", "mixture": str(self.mixture),
            "mixture_digest": "m" * 64, "plan": plan, "output": str(self.output),
        }  # fmt: skip

    def run(self, program: str = TRAINING, patience: float = 240.0) -> dict[str, Any]:
        """Train in a child; the figures. Raises Wrong with the program's own words."""
        code, said = child(program, str(self.write()), environment=self.environment(), patience=patience)
        return self.figures(code, said)

    def environment(self) -> dict[str, str]:
        """A GPU is hidden from a training on the CPU, as a lease of CPU slots does."""
        return {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}

    def figures(self, code: int, said: str = "") -> dict[str, Any]:
        """Of a run that ended with `code`. Raises Wrong where it did not train to its end."""
        result = self.result()
        if result.get("status") != "done":
            error = (result.get("error") or {}).get("problem") or (said.strip().splitlines() or [""])[-1][
                :300
            ]
            raise Wrong(
                f"the trainer ended with {code}: {error}", {"out_of_memory": "out of memory" in error}
            )
        return result["figures"]

    def result(self) -> dict[str, Any]:
        """result.json; empty where there is none."""
        file = self.output / "result.json"
        return read_json(file) if file.exists() else {}

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl that are of a step."""
        import json

        text = (self.output / "evidence" / "log.jsonl").read_text("utf-8")
        return [line for line in map(json.loads, text.splitlines()) if "loss" in line]

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.log()]

    def weights(self) -> dict[str, Any]:
        """The tensors of its payload, fp32, by name."""
        from safetensors.torch import load_file

        files = sorted((self.output / "payload").glob("*.safetensors"))
        return {name: tensor.float() for file in files for name, tensor in load_file(file).items()}

    def digest(self) -> str:
        """Of the bytes of its payload's weights."""
        files = sorted((self.output / "payload").glob("*.safetensors"))
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def run_together(trainings: Sequence[Training], patience: float = 240.0) -> int:
    """Those that are not done yet one after another in one process, which imports once; its exit code."""
    open_ones = [training for training in trainings if training.result().get("status") != "done"]
    if not open_ones:
        return 0
    folders = [str(training.write()) for training in open_ones]
    code, _ = child(TOGETHER, *folders, environment=open_ones[0].environment(), patience=patience)
    return code


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between two payloads, over the largest weight. Raises Wrong if names differ."""
    if one.keys() != other.keys():
        raise Wrong(f"other tensors: {sorted(one.keys() ^ other.keys())[:4]}")
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items()) / largest


def relative(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference of two rows of figures. Raises Wrong if one is longer."""
    if len(one) != len(other) or not one:
        raise Wrong(f"{len(one)} losses against {len(other)}")
    return max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(one, other, strict=True))
