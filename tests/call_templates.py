"""The original chat templates that TRL ships, and which of them write calls of tools."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tests.chat_templates import CALLS_BY_TAG, CALLS_IN_A_LIST
from tests.present import present

_FOLDER = Path(present(present(find_spec("trl")).origin)).parent / "chat_templates"
TEMPLATES = {
    path.stem: path.read_text("utf-8")
    for path in sorted(_FOLDER.glob("*.jinja"))
    if not path.stem.endswith("_training")
}
OWN = {"calls_by_tag": CALLS_BY_TAG, "calls_in_a_list": CALLS_IN_A_LIST}
_BEGIN = ("gemma4", "glm4", "gptoss", "llama3_", "muse", "nemotron", "qwen3")
WRITING = [name for name in TEMPLATES if name.startswith(_BEGIN)]
WRITING += [
    "deepseekv3",
    "diffusion_gemma",
    "lfm2_2_5",
    "lfm2_2_5_v2",
    "lfm2_2_5_vl",
    "lfm2_v2",
    "qwen2_5",
    *OWN,
]
