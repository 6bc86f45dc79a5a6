"""Makes the first declaration of a variant from its first rows and its base, each value with its reason."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ft_dagster.data.rows.infer import InferredRows, question_and_answer
from ft_dagster.data.rows.splits import SPLITS, split_at
from ft_dagster.data.sources.readers import columns_of
from ft_dagster.gate.power import hopeless_gates
from ft_dagster.model_files.weights import architecture_of, measure_weights, read_config, weight_files
from ft_dagster.objectives import KINDS
from ft_dagster.spec.data import SplitsSpec
from ft_dagster.spec.start import Start, written_place
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec
from ft_dagster.versions.declaration_text import Setting, Source, declaration_text

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3)  # of validation and of test
# Up to what a platform allows that says nothing of its own.
LAXER: Mapping[str, tuple[float, ...]] = {"loss_tail": (0.05, 0.1), "regression_margin": (0.1, 0.15)}
LEAST_ANSWER, MOST_ANSWER = 8, 512  # tokens


@dataclass(frozen=True)
class JudgedRows:
    """Holds splits and gates by which the rows can decide. `test`: rows of the test split."""

    splits: SplitsSpec
    gates: dict[str, float]
    test: int


class Carried(NamedTuple):
    """Holds what another program's files say: sources of rows, fields, and lines that stand above them."""

    sources: tuple[Source, ...] = ()
    settings: tuple[Setting, ...] = ()
    heading: tuple[str, ...] = ()


def first_declaration(folder: Path, variant: str, base: str, data: str, rows: InferredRows | None) -> Start:
    """Return the declaration and what is to be said of it. `base` and `data`: as `start_project` takes them;
    no `rows`: they were not read. Raises UserError for a base that is damaged.
    """
    said = base_lines(base)
    if rows is None:
        return Start(None, (*said, f"{data}: its rows were not read; `ft-dagster check` reads them"))
    source = {"path": written_place(folder, data)} | ({"fields": rows.fields} if rows.fields else {})
    start = carried_declaration(folder, variant, base, rows, Carried((Source(source, _count(rows)),)))
    return Start(start.declaration, (*said, *start.said))


def carried_declaration(
    folder: Path, variant: str, base: str, rows: InferredRows | None, carried: Carried
) -> Start:
    """Return a declaration with what is carried into it; of all else, what the rows say, where they were
    read.
    """
    settings = [
        Setting("description", _about(variant, rows)),
        Setting("owners", ["you@example.com"], "who is told"),
    ]
    said = list[str]()
    if rows is not None:
        settings.append(Setting("objective", rows.objective, rows.why))
    settings.append(Setting("base_model", written_place(folder, base)))
    if rows is not None:
        judged = judged_rows(rows)
        settings += _judged_by(rows, judged)
        said = _said_of(rows, judged)
    settings += [
        Setting("method", "auto", "LoRA as a rule; `ft-dagster plan` decides by dry runs"),
        Setting("export", "adapter", "or merged: a whole model"),
    ]
    return Start(
        declaration_text((*settings, *carried.settings), carried.sources, carried.heading), tuple(said)
    )


def _said_of(rows: InferredRows, judged: JudgedRows | None) -> list[str]:
    said = [f"{_count(rows)}: {rows.objective}, since {rows.why}"]
    if rows.fields:
        named = (f"{theirs} as {ours}" for ours, theirs in rows.fields.items())
        said.append(f"your columns: {', '.join(named)}")
    if rows.unread:
        said.append(f"not read: {columns_of(rows.unread)}")
    if judged is None:
        said.append(
            f"! {rows.rows:,} different rows are too few, and a run is refused: about {least_rows(rows):,} "
            "rows are the least"
        )
    return said


def base_lines(base: str) -> list[str]:
    """Say what a base costs in disk and memory; of one that is not a folder, nothing. Raises UserError."""
    if not os.path.isabs(base):
        return []
    folder = Path(base)
    weights = measure_weights(folder, weight_files(folder))
    architecture = architecture_of(read_config(folder))
    return [
        f"base: {architecture}, {_short(weights.parameters)} parameters, {_bytes(weights.nbytes)} on disk",
        f"in memory: {_bytes(2 * weights.parameters)} frozen in bf16; `ft-dagster plan` adds the training",
    ]


def least_rows(rows: InferredRows) -> int:
    """Return about how many rows such a variant needs: by the largest test split and the widest margins, each
    split with its least.
    """
    share, minimum = SHARES[-1], SplitsSpec().minimum
    gates = _gates(rows)[-1]
    return next(
        number
        for number in range(1, 10_000)
        if math.floor(share * number) >= minimum and _decides(gates, rows, math.floor(share * number))
    )


def judged_rows(rows: InferredRows) -> JudgedRows | None:
    """Return the strictest gates, and of those the smallest splits, by which all rules can be decided; None
    where nothing decides them. Of more rows than were read: the usual ones.
    """
    if rows.more:
        return JudgedRows(SplitsSpec(), {}, rows.rows)
    for gates, splits in _choices(rows):
        counts = _counts(rows, splits)
        if min(counts.values()) >= splits.minimum and _decides(gates, rows, counts["test"]):
            return JudgedRows(splits, gates, counts["test"])
    return None


def _choices(rows: InferredRows) -> Iterator[tuple[dict[str, float], SplitsSpec]]:
    for gates in _gates(rows):
        for test in SHARES:
            for validation in SHARES:
                yield gates, SplitsSpec(validation=validation, test=test)


def _gates(rows: InferredRows) -> list[dict[str, float]]:
    """Return the gates that may be declared, the strictest first."""
    laxer = "loss_tail" if rows.scored == "text" else "regression_margin"
    return [{}, *({laxer: value} for value in LAXER[laxer])]


def _counts(rows: InferredRows, splits: SplitsSpec) -> dict[str, int]:
    fallen = [split_at(position, splits) for position in rows.positions]
    return {name: fallen.count(name) for name in SPLITS}


def _decides(gates: Mapping[str, float], rows: InferredRows, test: int) -> bool:
    evaluation = EvaluationSpec(general=(), kind=rows.scored)
    return not hopeless_gates(GatesSpec.model_validate(gates), evaluation, {"task": test})


def _judged_by(rows: InferredRows, judged: JudgedRows | None) -> Iterator[Setting]:
    """Yield splits, scoring and gates by which the rows can decide, where these are not the usual ones."""
    if judged is not None and not rows.more:
        shares = {"validation": judged.splits.validation, "test": judged.splits.test}
        yield Setting("data.splits", shares, f"{judged.test:,} rows judge the model")
    if rows.scored != "text":
        tokens = min(max(LEAST_ANSWER, rows.longest_answer + 2), MOST_ANSWER)
        evaluation = {"kind": rows.scored, "max_new_tokens": tokens}
        yield Setting("evaluation", evaluation, "how answers are scored; their most tokens")
    if judged is not None and judged.gates:
        yield Setting("gates", judged.gates, "laxer than usual: so few rows show no less")


def _about(variant: str, rows: InferredRows | None) -> str:
    question, answer = question_and_answer({} if rows is None else rows.fields)
    if question and answer:
        return f"{variant} learns {answer} from {question}"
    return f"{variant} learns {'its rows' if rows is None else KINDS[rows.kind]}"


def _count(rows: InferredRows) -> str:
    return f"more than {rows.rows:,} rows" if rows.more else f"{rows.rows:,} different rows"


def _short(parameters: int) -> str:
    units = ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1, ""))
    size, unit = next(each for each in units if parameters >= each[0] or each[0] == 1)
    return f"{parameters / size:.3g}{unit}"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e7 else f"{number / 1e6:.1f} MB"
