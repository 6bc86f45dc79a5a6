"""The stages of the graph and the version of each one's meaning.

Raise a version by hand when what the stage computes changes; every artifact of the stage is then
made anew. `tests/provenance/test_stage_versions.py` fails when a stage's code changed and nobody decided.
"""

from __future__ import annotations

STAGE_VERSIONS = {
    "declaration": 1,
    "base_model": 1,
    "general_corpus": 1,
    "evaluation_texts": 1,
    "task_dataset": 1,
    "training_mixture": 1,
    "training_plan": 2,
    "fine_tuned_model": 1,
    "base_evaluation": 2,
    "evaluation": 2,
    "model_export": 2,
    "release": 1,
}

# Which files give a stage its meaning: a folder of the package stands for the files in it.
_ROWS = ["data/sources.py", "data/readers.py", "data/locations.py", "data/rows.py", "data/formats.py"]
STAGE_CODE = {
    "declaration": ["spec", "data/fingerprint.py", "data/locations.py", "data/hub.py", "data/hashes.py"],
    "base_model": [
        "data/base.py", "data/derived.py", "data/new_tokens.py", "data/weights.py", "data/locations.py",
        "data/hub.py", "data/hashes.py", "export/derived.py",
    ],
    "general_corpus": ["data/corpus.py", "data/dedup.py", "data/splits.py", "data/tables.py", *_ROWS],
    "evaluation_texts": ["evaluation/texts.py", "evaluation/tasks.py", "evaluation/load.py"],
    "task_dataset": [
        "data/dataset.py", "data/dataset_io.py", "data/decontaminate.py", "data/dedup.py", "data/splits.py",
        "data/tables.py", *_ROWS,
    ],
    "training_mixture": [
        "data/mixture.py", "data/render.py", "data/general.py", "data/shards.py", "data/tables.py",
        "data/dataset_io.py", "data/rows.py", "data/weights.py", "data/examples.py", "objectives",
    ],
    "training_plan": ["planning", "objectives"],
    "fine_tuned_model": ["training", "data/quantize.py", "objectives"],
    "base_evaluation": ["evaluation"],
    "evaluation": ["evaluation", "data/quantize.py", "objectives"],
    "model_export": ["export"],
    "release": ["lineage/release.py"],
}  # fmt: skip
