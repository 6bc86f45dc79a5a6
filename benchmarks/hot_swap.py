"""Many adapters over one base: are the answers those of each model alone, and how fast is a switch?

    .venv/bin/python benchmarks/hot_swap.py            # every adapter released by the demo, after `make demo`

A markdown table on stdout. All adapters share the plain base, then the base in every form in which one
of them was trained. A variant's older versions count as models of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
DEMO = HERE.parent / "examples" / "demo"
QUESTIONS = (
    "Which documents do I need for a building permit?",
    "Code for: Cholera due to Vibrio cholerae 01",
    "How long does the procedure take?",
    "What is the capital of France?",
    "Code for: fracture of the left wrist, first visit",
    "May I close off my balcony?",
    "Who may open an account?",
    "Write one sentence about the sea.",
)


def released(store: Path) -> dict[str, Path]:
    """Every adapter that was ever released: `acme.support v2` -> its payload."""
    found = {}
    for file in sorted(store.glob("tenants/*/*/releases/*.json")):
        entry = json.loads(file.read_text("utf-8"))
        exports = file.parents[1] / "model_export" / entry.get("export_key", "")
        for adapter in exports.glob("*/payload/adapter_config.json"):
            found[f"{entry['variant']} v{entry['version']}"] = adapter.parent
    return found


def token_ids(base: Path) -> list[list[int]]:
    """The questions as a server would render them."""
    from ft_dagster.data.rendering.render import load_tokenizer

    tokenizer = load_tokenizer(base)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=DEMO / ".ft_dagster" / "store")
    parser.add_argument("--base", type=Path, default=DEMO / "models" / "smollm2-135m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from ft_dagster.export.hot_swap import hot_swap
    from ft_dagster.models.quantize import quantization_of

    adapters = released(given.store)
    if not adapters:
        raise SystemExit(f"no adapter was released in {given.store}: run `make demo` first")
    forms = sorted({None, *map(quantization_of, adapters.values())}, key=str)
    prompts = token_ids(given.base)
    print(f"{given.base.name}, {given.dtype}, {len(prompts)} questions a model, a switch before each\n")
    print(
        "| base | adapter | answers equal | largest logit difference | switch, ms | reload, ms |"
        " times faster |\n|---|---|---|---|---|---|---|"
    )
    for form in forms:
        hot_swap(given.base, dict([*adapters.items()][:1]), prompts[:1], quantization=form)  # imports
        for one in hot_swap(given.base, adapters, prompts, quantization=form, dtype=given.dtype):
            print(
                f"| {form or 'plain'} | {one.name} | {one.answers_equal:.0%} | {one.max_logit_difference:g} |"
                f" {1000 * one.switch_seconds:.1f} | {1000 * one.reload_seconds:,.0f} |"
                f" {one.reload_seconds / one.switch_seconds:.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
