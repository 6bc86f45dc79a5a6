"""Does LoRA dropout pay? Validation loss with 0 and with 0.05, of three seeds each. A table on stdout.

    .venv/bin/python benchmarks/dropout.py

Whole ICD codes, LoRA of rank 16, two epochs: same rows, another order and another adapter to begin
with for each seed. It takes some twenty minutes of two cores, and needs the demo's model and data:
`make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from project import DEMO, arguments, make_project

SEEDS, RATES = (0, 1, 2), (0.0, 0.05)
VARIANT = """\
description: Codes injuries, with seed {seed}
owners: [benchmarks@example.com]
base_model: {demo}/models/smollm2-135m
data:
  sources:
    - {{path: {demo}/data/meditech/icd-whole-codes.jsonl, system: You are a medical coder.}}
method: {{name: lora, rank: 16}}
training:
  num_train_epochs: 2
  max_length: 256
  evaluations: 4
  seed: {seed}
evaluation:
  general: [{demo}/tasks/sciq_local.yaml]
  limit: 50
  max_new_tokens: 12
gates: {{general_margin: 1.0, general_loss_margin: 1.0, task_margin: 1.0}}
resources: {{cpu_slots: 1}}
"""


def losses(folder: Path, seed: int) -> dict[float, float]:
    """The best validation loss by dropout."""
    program = [str(Path(sys.executable).with_name("ft-dagster")), "--project", str(folder)]
    rates = ",".join(map(str, RATES))
    asked = ["sweep", f"meditech.seed-{seed}", "--set", f"method.dropout={rates}", "--json"]
    done = subprocess.run([*program, *asked], check=True, stdout=subprocess.PIPE, text=True)
    runs = json.loads(done.stdout)["runs"]
    return {run["overrides"]["method.dropout"]: run["figures"]["validation_loss_best"] for run in runs}


def main() -> int:
    given = arguments(__doc__ or "", "dropout").parse_args()
    files = {f"tenants/meditech/seed-{seed}.yaml": VARIANT.format(demo=DEMO, seed=seed) for seed in SEEDS}
    make_project(given.folder, files, fresh=given.fresh)
    found = [losses(given.folder, seed) for seed in SEEDS]
    print("| dropout | validation loss by seed | mean | spread (standard deviation) |\n|---|---|---|---|")
    for rate in RATES:
        values = [each[rate] for each in found]
        print(
            f"| {rate} | {', '.join(f'{v:.4f}' for v in values)} | {mean(values):.4f} | {stdev(values):.4f} |"
        )
    differences = [each[RATES[1]] - each[RATES[0]] for each in found]
    print(f"\n{RATES[1]} less {RATES[0]}, paired: {mean(differences):+.4f} (spread {stdev(differences):.4f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
