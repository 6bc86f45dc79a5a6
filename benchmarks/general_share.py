"""How much general text keeps a model from forgetting? One training at four shares of it.

    .venv/bin/python benchmarks/general_share.py

Sweeps `data.general.share` over 0, 5, 10 and 25% for a coder of whole ICD codes, at a learning rate of 3e-4
at which it forgets: same rows, same number of task tokens, so more general text means more steps. Needs the
demo's model and data: `make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import sys

from project import DEMO, arguments, ft_dagster, make_project

VARIANT = """\
description: Codes injuries, and is trained hard enough to forget
owners: [benchmarks@example.com]
base_model: {demo}/models/smollm2-135m
data:
  sources:
    - {{path: {demo}/data/meditech/icd-whole-codes.jsonl, system: You are a medical coder.}}
  general: {{corpus: general, share: 0.05}}
method: {{name: lora, rank: 16, dropout: 0.0}}
training:
  learning_rate: 3.0e-4
  num_train_epochs: 1
  max_length: 256
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 1
  evaluations: 4
evaluation:
  general: [{demo}/tasks/arc_easy_local.yaml, {demo}/tasks/sciq_local.yaml]
  limit: 100
  max_new_tokens: 12
gates: {{general_margin: 1.0, general_loss_margin: 1.0, task_margin: 1.0}}
resources: {{cpu_slots: 1}}
"""


def project_files() -> dict[str, str]:
    corpus = (DEMO / "corpora/general.yaml").read_text("utf-8")
    return {
        "tenants/meditech/coder.yaml": VARIANT.format(demo=DEMO),
        "corpora/general.yaml": corpus.replace("data/", f"{DEMO}/data/"),
    }


def main() -> int:
    parser = arguments(__doc__ or "", "general_share")
    parser.add_argument("--shares", default="0,0.05,0.1,0.25")
    given = parser.parse_args()
    make_project(given.folder, project_files(), fresh=given.fresh)
    shares = f"data.general.share={given.shares}"
    return ft_dagster(given.folder, "sweep", "meditech.coder", "--set", shares, "--runs", "9")


if __name__ == "__main__":
    sys.exit(main())
