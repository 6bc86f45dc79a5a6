"""The stages of the graph and the version of each one's meaning.

Raise a version by hand when what the stage computes changes; every artifact of the stage is then
made again. `tests/provenance/test_stage_versions.py` fails when a stage's code changed and nobody decided.
"""

from __future__ import annotations

STAGE_VERSIONS = {
    "declaration": 1,
    "base_model": 1,
    "general_corpus": 3,
    "evaluation_texts": 3,
    "unsaid_tokens": 2,
    "base_text": 1,
    "task_dataset": 4,
    "training_mixture": 5,
    "probe": 5,
    "training_plan": 10,
    "fine_tuned_model": 3,
    "general_scores": 6,
    "base_evaluation": 7,
    "evaluation": 7,
    "production_evaluation": 4,
    "candidate_evaluation": 3,
    "model_export": 4,
    "release": 1,
}
FORMER_STAGES = (
    "prior",
    "version_before",
)  # which stores may hold, and nothing reads any more
