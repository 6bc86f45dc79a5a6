"""How much general text keeps a model from forgetting? One training at four shares of it.

    .venv/bin/python benchmarks/general_share.py

Sweeps `data.general.share` over 0, 5, 10 and 25% for the demo's medical coder, at a learning rate of 3e-4 at
which it forgets: same rows, same number of task tokens, so more general text means more steps. Needs the
demo's model and data: `make install && .venv/bin/python examples/demo/prepare.py`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "examples" / "demo"
VARIANT = """\
description: Codes injuries, and is trained hard enough to forget
owners: [benchmarks@example.com]
base_model: {demo}/models/smollm2-135m
data:
  sources:
    - {{path: {demo}/data/meditech/icd-coder.jsonl, system: You are a medical coder.}}
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


def make_project(folder: Path) -> None:
    files = {
        "tenants/meditech/coder.yaml": VARIANT.format(demo=DEMO),
        "corpora/general.yaml": (DEMO / "corpora/general.yaml").read_text("utf-8"),
        "ft_dagster.yaml": "store: .ft_dagster/store\n",
    }
    files["corpora/general.yaml"] = files["corpora/general.yaml"].replace("data/", f"{DEMO}/data/")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=HERE / ".work" / "general_share")
    parser.add_argument("--shares", default="0,0.05,0.1,0.25")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier call trained")
    given = parser.parse_args()
    if given.fresh:
        shutil.rmtree(given.folder, ignore_errors=True)
    make_project(given.folder)
    program = [str(Path(sys.executable).with_name("ft-dagster")), "--project", str(given.folder)]
    asked = ["sweep", "meditech.coder", "--set", f"data.general.share={given.shares}", "--runs", "9"]
    return subprocess.run([*program, *asked], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
