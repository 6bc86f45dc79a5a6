"""The stages of the graph and the version of each one's meaning.

Raise a version by hand when what the stage computes changes; every artifact of the stage is then
made again. `tests/provenance/test_stage_versions.py` fails when a stage's code changed and nobody decided.
"""

from __future__ import annotations

STAGE_VERSIONS = {
    "declaration": 1,
    "base_model": 1,
    "general_corpus": 1,
    "evaluation_texts": 1,
    "task_dataset": 1,
    "training_mixture": 1,
    "training_plan": 3,
    "fine_tuned_model": 1,
    "general_scores": 2,
    "base_evaluation": 4,
    "evaluation": 4,
    "production_evaluation": 1,
    "model_export": 4,
    "release": 1,
}
