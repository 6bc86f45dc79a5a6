"""Make a model's folder in a child: of the 135M model's GGUF, or of random weights.

python -m stages.convert FILE.gguf FOLDER
python -m stages.convert --random SHAPE TOKENIZER FOLDER DEVICE
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(asked: list[str]) -> int:
    if asked[0] == "--random":
        from stages.models import make_random

        shape, tokenizer, folder, device = asked[1:]
        make_random(Path(folder), shape, Path(tokenizer), device)
        return 0
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "demo"))
    convert_model = importlib.import_module("prepare").convert_model

    file, target = map(Path, asked)
    convert_model(file, target, print)
    file.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
