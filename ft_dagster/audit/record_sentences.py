"""Says the answer to a question about a record in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from ft_dagster.audit.answers import RecordAnswer, SearchAnswer
from ft_dagster.audit.records import ALIKE, INHERITED, TRAINED
from ft_dagster.report.figures import counted, size


def sought(answer: RecordAnswer) -> str:
    """Say the answer in one sentence."""
    if not answer.found:
        return _not_found(answer)
    learned = {model.weights for model in answer.models if model.how in (TRAINED, INHERITED)}
    found = counted(len(answer.found), "artifact")
    inside = "others were not searched for it" if answer.search is None else _inside(answer.search, "other ")
    learned_from = f"{counted(len(learned), 'model')} learned from it"
    return "; ".join(
        filter(None, (f"in {found}{_by_columns(answer)}", learned_from, inside, *_unsure(answer)))
    )


def _by_columns(answer: RecordAnswer) -> str:
    """Say as what a line of cells was found; empty of any other."""
    read = " or ".join(", ".join(name or "-" for name in columns) for columns in answer.columns)
    return f", read as a line of {read}" if read else ""


def _inside(search: SearchAnswer, other: str = "") -> str:
    """Say where else it stands, also in part; empty where it does nowhere."""
    cut = counted(len(search.cut), "row that was cut is", "rows that were cut are")
    same = f"{cut} the same as far as that" if search.cut else ""
    return "; ".join(filter(None, (same, _contained(search, other))))


def _contained(search: SearchAnswer, other: str) -> str:
    asked = counted(search.questions, "stored question or answer", "stored questions or answers")
    rows = search.rows
    said = f"{counted(rows, f'{other}row')} {'contains' if rows == 1 else 'contain'} it"
    if not search.questions:
        return said if rows else ""
    also = f"{asked} {'does' if search.questions == 1 else 'do'}"
    return f"{said}, and {also}" if rows else f"no {other}row contains it, and {also}"


def _not_found(answer: RecordAnswer) -> str:
    held, search = answer.checked, answer.search
    said = ", and ".join(("no record equals this", *_unsure(answer)))
    if search is None:
        said += "; not searched"
    elif inside := _inside(search):
        said += f"; {inside}"
    elif answer.seen is None:
        where = "that can be searched" if search.within is None else f"within {search.within}"
        said += f"; nothing {where} contains it"
    else:
        said = "never seen"
    searched = ""
    if search is not None:
        searched = f", searched through {size(search.size)} of text"
    questions = f"the questions of {counted(held.evaluations, 'evaluation')}, " if held.evaluations else ""
    as_text = f", as a text alone (it is no row: {answer.no_row})," if answer.no_row else ""
    if answer.columns:
        ways = (
            f"{len(answer.columns)} orders of columns"
            if len(answer.columns) > 1
            else ", ".join(answer.columns[0])
        )
        as_text = f", as a text and as a line of {len(answer.columns[0])} cells (read by {ways}),"
    return (
        f"{said}: compared{as_text} with {counted(held.records, 'record')} of {held.artifacts:,} data sets, "
        f"corpora and mixtures, {questions}and {counted(held.models, 'model')}{searched}; {answer.note}"
    )


def _unsure(answer: RecordAnswer) -> Iterator[str]:
    """Say why more may have it than was found."""
    if answer.checked.unread:
        yield f"{len(answer.checked.unread)} could not be read"
    alike = sum(one.alike for one in answer.found)
    if alike:
        yield f"{alike} of these by identity 1, so perhaps another: it does not tell {ALIKE}"
    yield from answer.unsure
    if answer.transformed:
        yield f"the rows of {counted(len(answer.transformed), 'source')} were transformed"
