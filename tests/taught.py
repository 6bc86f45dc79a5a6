"""A tiny base that was taught some sentences, so that what it writes by itself are words."""

from __future__ import annotations

import shutil
from pathlib import Path

TOWN = [
    f"The old town by the sea had {n} houses and a stone tower; ships came every {n % 7} days"
    for n in range(64)
]
STEPS = 80


def teach(base: Path, folder: Path) -> Path:
    """A copy of `base` in `folder`, trained on those sentences: each begins as a text does, and ends."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    begin = end if begin is None else begin
    rows = [[begin, *tokenizer(text)["input_ids"], end] for text in TOWN]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[end] * (longest - len(row))] for row in rows])
    labels = torch.tensor([[*row, *[-100] * (longest - len(row))] for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
    shutil.copytree(base, folder)
    model.save_pretrained(folder)
    return folder
