"""Writes text of a base model that is asked nothing, as general text for whoever has no corpus: `python -m
ft_dagster.evaluation.sampled RUN_DIR`.

General text for whoever has no corpus. Drawn token by token from the model's own distribution (temperature 1,
nothing cut off), after the token that begins a text. Writes `<output>/payload/train.parquet`,
`holdout.parquet` (text, source, licence: as a corpus has them) and sampled.json. A base that writes the same
over and over, repeats itself, or chooses almost at random is refused, with the figure.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.measured_digests import hold_base
from ft_dagster.evaluation.request import SampledRequest
from ft_dagster.program import run_program, start_program, write_json
from ft_dagster.provenance.held import FOLDER, held_files

SOURCE = "sampled from the base"
BATCH = 64
HELD_OUT = 128  # of the texts: a quarter of 512, by which a gate sees a rise of 0.1 nats
LEAST_DISTINCT, MOST_REPEATED, MOST_RANDOM = 0.5, 0.5, 0.75


@dataclass(frozen=True)
class SampledFigures:
    """Describes the drawn texts. `texts`: kept, of `documents` drawn; `distinct`: their share, that of texts
    with words which no other has; `repeated`: mean share of 4-grams that stood in the text before;
    `surprisal`: nats a token, and `uniform`: those of a choice at random.
    """

    documents: int
    texts: int
    distinct: float
    repeated: float
    surprisal: float
    uniform: float


def main(run_dir: Path) -> int:
    return run_program(run_dir, SampledRequest, _work)


def _work(request: SampledRequest) -> dict[str, object]:
    from ft_dagster.data.rendering.render import load_tokenizer
    from ft_dagster.evaluation.models.load import load_base

    began = time.monotonic()
    if os.environ.get("FT_DAGSTER_LEASE"):
        from ft_dagster.launch.leases import hold_as_rank

        hold_as_rank()
    with held_files(request.output / FOLDER) as held:
        folder = hold_base(request.base, held)
        tokenizer = load_tokenizer(folder)
        model = load_base(folder, dtype=request.dtype, device=request.device)
        drawn, surprisal = draw(
            model, tokenizer, documents=request.documents, tokens=request.tokens, seed=request.seed
        )
    texts, figures = keep(drawn, tokenizer, surprisal, len(tokenizer))
    refuse_garbage(figures, request.base.folder)
    write_parts(texts, request.output / "payload", request.documents)
    write_json(request.output / "payload" / "sampled.json", {"schema_version": 1, **asdict(figures)})
    return {**asdict(figures), "seconds": round(time.monotonic() - began, 3)}


def draw(
    model: Any, tokenizer: Any, *, documents: int, tokens: int, seed: int
) -> tuple[list[list[int]], float]:
    """Draw the token ids of each text, without the tokens that begin and end it, and return them with their
    mean surprisal in nats.
    """
    import torch

    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    drawn: list[list[int]] = []
    nats, counted = 0.0, 0
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        while len(drawn) < documents:
            rows = min(BATCH, documents - len(drawn))
            ids = torch.full((rows, 1), begin, dtype=torch.long, device=model.device)
            made = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            for row in made:
                written = row[1:].tolist()
                if tokenizer.eos_token_id in written:
                    written = written[: written.index(tokenizer.eos_token_id)]
                nats += _nats(model, row[: len(written) + 1])
                counted += len(written)
                drawn.append(written)
            print(f"sampling from the base: {len(drawn)}/{documents} texts", flush=True)
    return drawn, nats / counted if counted else math.nan


def _nats(model: Any, ids: Any) -> float:
    """Return the surprisal of a text after its first token, all of it."""
    if len(ids) < 2:
        return 0.0
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
    return float(-logits.log_softmax(dim=-1).gather(1, ids[1:, None]).sum())


def keep(
    drawn: Sequence[Sequence[int]], tokenizer: Any, surprisal: float, vocabulary: int
) -> tuple[list[str], SampledFigures]:
    """Return the texts that have words, each once, and the figures of all."""
    from ft_dagster.evaluation.degeneration import repeated_share

    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in drawn]
    kept = list(dict.fromkeys(text for text in texts if any(map(str.isalnum, text))))
    repeated = sum(map(repeated_share, drawn)) / len(drawn)
    return kept, SampledFigures(
        documents=len(drawn),
        texts=len(kept),
        distinct=len(kept) / len(drawn),
        repeated=repeated,
        surprisal=surprisal,
        uniform=math.log(vocabulary),
    )


def refuse_garbage(figures: SampledFigures, base: Path) -> None:
    """Raises UserError for a base whose texts teach nothing."""
    if figures.distinct < LEAST_DISTINCT:
        why = f"{figures.distinct:.0%} of its texts are distinct and have words"
    elif figures.repeated > MOST_REPEATED:
        why = f"{figures.repeated:.0%} of its 4-grams stood in the same text before"
    elif not figures.surprisal <= MOST_RANDOM * figures.uniform:
        said = f"{figures.surprisal:.2f} nats a token, where a choice at random has {figures.uniform:.2f}"
        why = f"it chooses its tokens almost at random: {said}"
    else:
        return
    raise UserError(
        f"the base samples garbage: {why}",
        file=base,
        field="data.general.from",
        value="base",
        fix="Name a corpus (data.general.corpus)",
    )


def write_parts(texts: Sequence[str], folder: Path, documents: int) -> None:
    """Write train.parquet and holdout.parquet; which of them takes a text depends on the text, and on how
    many were drawn.
    """
    from ft_dagster.data.files.tables import TableWriter
    from ft_dagster.data.rows.corpus import PARTS, SCHEMA
    from ft_dagster.data.rows.splits import position_of

    rows: dict[str, list[str]] = {part: [] for part in PARTS}
    share = HELD_OUT / max(documents, 4 * HELD_OUT)
    for text in texts:
        rows["holdout" if position_of(text) < share else "train"].append(text)
    for part, chosen in rows.items():
        with TableWriter(folder / f"{part}.parquet", SCHEMA, rows=256, nbytes=500_000) as table:
            for text in chosen:
                table.add({"text": text, "source": SOURCE, "licence": None}, len(text))


if __name__ == "__main__":
    start_program("ft_dagster.evaluation.sampled", main)
