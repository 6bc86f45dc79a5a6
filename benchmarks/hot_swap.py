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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ft_dagster.methods.method import Quantization

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


@dataclass(frozen=True)
class Swapped:
    """Describes one adapter among others. `answers_equal`: the share of answers that are, token by token,
    those of the adapter alone; `max_logit_difference` between the two. Seconds: the median to switch to it
    (`switched` times), and to load the base and it from disk.
    """

    name: str
    answers_equal: float
    max_logit_difference: float
    switched: int
    switch_seconds: float
    reload_seconds: float


@dataclass(frozen=True)
class _Answer:
    logits: Tensor
    written: list[int]


def hot_swap(
    base: Path,
    adapters: Mapping[str, Path],
    prompts: Sequence[Sequence[int]],
    *,
    quantization: Quantization | None = None,
    dtype: str = "float32",
    tokens: int = 16,
) -> list[Swapped]:
    """Ask each adapter each prompt (token ids) alone, then all in turns over one base, a switch before each.

    `quantization` and `dtype` (bfloat16 or float32) are those of the base on both sides; `tokens` are written
    greedily after each prompt. Raises UserError for an adapter that does not fit the base.
    """
    from ft_dagster.evaluation.models.load import let_go, load_base, put_adapter

    alone = {}
    for name, path in adapters.items():
        started = time.perf_counter()
        model = put_adapter(load_base(base, dtype=dtype, quantization=quantization), path)
        seconds_to_load = time.perf_counter() - started
        alone[name] = [_answer(model, prompt, tokens) for prompt in prompts], seconds_to_load
        let_go(model)
    model = _together(load_base(base, dtype=dtype, quantization=quantization), adapters)
    seconds: dict[str, list[float]] = {name: [] for name in adapters}
    found: dict[str, list[_Answer]] = {name: [] for name in adapters}
    for prompt in prompts:
        for number, name in enumerate(adapters):
            started = time.perf_counter()
            model.set_adapter(_slot(number), inference_mode=True)
            seconds[name].append(time.perf_counter() - started)
            found[name].append(_answer(model, prompt, tokens))
    let_go(model)
    return [_compared(name, *alone[name], found[name], seconds[name]) for name in adapters]


def _compared(
    name: str, alone: list[_Answer], reload_seconds: float, found: list[_Answer], seconds: list[float]
) -> Swapped:
    pairs = list(zip(alone, found, strict=True))
    return Swapped(
        name=name,
        answers_equal=sum(a.written == b.written for a, b in pairs) / len(pairs),
        max_logit_difference=max(float((a.logits - b.logits).abs().max()) for a, b in pairs),
        switched=len(seconds),
        switch_seconds=sorted(seconds)[len(seconds) // 2],
        reload_seconds=reload_seconds,
    )


def _together(base: Any, adapters: Mapping[str, Path]) -> Any:
    """Load the base with all adapters beside each other."""
    from peft import PeftModel

    first, *others = adapters.values()
    options = {"is_trainable": False, "autocast_adapter_dtype": False}
    model = PeftModel.from_pretrained(base, str(first), adapter_name=_slot(0), **options)
    for number, path in enumerate(others, 1):
        model.load_adapter(str(path), adapter_name=_slot(number), **options)
    return model.eval()


def _slot(number: int) -> str:
    """Return PEFT's name of an adapter; a variant's own has a dot, which is none for a module of torch."""
    return f"adapter_{number}"


def _answer(model: Any, prompt: Sequence[int], tokens: int) -> _Answer:
    """Return the logits of the last position, and the token ids written greedily after it."""
    import torch

    given = torch.tensor([list(prompt)])
    with torch.inference_mode():
        logits = model(input_ids=given).logits[0, -1].float()
        wrote = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=0,
        )
    return _Answer(logits, wrote[0, len(prompt) :].tolist())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=DEMO / ".ft_dagster" / "store")
    parser.add_argument("--base", type=Path, default=DEMO / "models" / "smollm2-135m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
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
