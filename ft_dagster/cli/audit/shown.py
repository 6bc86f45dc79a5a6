"""Shows answers of an audit: on a terminal, and as pages that are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from ft_dagster.cli.common import escape, out, show, show_rows, tell
from ft_dagster.report.figures import counted

if TYPE_CHECKING:
    from ft_dagster.audit.answers import (
        Absence,
        Compute,
        HeldAgainst,
        ModelAnswer,
        ModelThatHas,
        NearAnswer,
        RecordIn,
        SearchAnswer,
    )
    from ft_dagster.audit.proofs.proof_check import ProofChecked
    from ft_dagster.audit.verify.verify import Verified


class WrongLine(NamedTuple):
    """Is a line on what is wrong, after a word in red."""

    mark: str
    said: str


class ShownRows(NamedTuple):
    """Is a table; without `headers`, of names and what they are."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


Part = str | WrongLine | ShownRows
SHOWN = 20  # of what a record that nobody saw was held against
MOST_WAYS = 8  # to read it


def print_parts(parts: Iterable[Part]) -> None:
    for part in parts:
        if isinstance(part, WrongLine):
            out.print(f"[red]{part.mark}[/] {escape(part.said)}", highlight=False, soft_wrap=True)
        elif isinstance(part, ShownRows) and part.headers:
            show_rows(part.headers, part.rows)
        elif isinstance(part, ShownRows):
            table = Table(box=None, show_header=False)
            for row in part.rows:
                table.add_row(*map(escape, row))
            show(table)
        else:
            tell(part)


def as_page(title: str, parts: Iterable[Part], facts: Sequence[tuple[str, str]]) -> str:
    """Return an answer as an HTML page. `facts`: what was asked about, when, and of which project."""
    from ft_dagster.report.pages.html import HtmlTable, Report, Section, as_html

    sections = list[Section]()
    said = list[str]()
    for part in parts:
        if isinstance(part, ShownRows):
            sections.append(Section("", said, tables=[HtmlTable("", part.headers, part.rows)]))
            said = []
        else:
            said.append(part if isinstance(part, str) else f"{part.mark}: {part.said}")
    return as_html(Report(title, "", facts, (), [*sections, Section("", said)]))


def held_parts(held: HeldAgainst) -> Iterator[Part]:
    """Print what a record that nobody saw was compared with; the first SHOWN of it."""
    holders: dict[tuple[str, str, str, str], list[Absence]] = {}
    for one in held.absences:
        named = (one.stage, one.variant or "shared", one.digest[:12], f"{one.records:,}")
        holders.setdefault(named, []).append(one)
    rows = []
    for named, absences in list(holders.items())[:SHOWN]:
        first, beside = absences[0], _shortly([*map(_between, absences)])
        rows.append((*named, *((first.unproved, "") if first.unproved else (beside, first.root[:12]))))
    if rows:
        yield ShownRows(("not in", "variant", "digest", "records", "between leaves", "root"), rows)
    names = sorted({model.variant for model in held.models})
    more = [f"{len(each) - SHOWN:,} more" for each in (holders, names) if len(each) > SHOWN]
    if names:
        yield f"models: {', '.join(names[:SHOWN])}"
    if more:
        yield f"and {' and '.join(more)}: --json shows all"
    if any(not one.unproved for one in held.absences):
        said = "that nothing is between two leaves shows to who has the tenant's key; --json has their paths,"
        yield f"{said} `audit prove RECORD MODEL` a file"


def _between(absence: Absence) -> str:
    return " and ".join(f"{leaf['index']:,}" for leaf in absence.leaves) or "none"


def _shortly(said: Sequence[str]) -> str:
    """Return the first MOST_WAYS of several, and how many more there are."""
    more = [f"{len(said) - MOST_WAYS:,} more"] if len(said) > MOST_WAYS else []
    return "; ".join((*said[:MOST_WAYS], *more))


def places_parts(places: Iterable[RecordIn]) -> Iterator[Part]:
    """Print where a record, or a question, is."""
    rows = []
    for one in places:
        facts = one.facts
        place = [str(said or "") for said in (facts.get("file") or facts.get("task"), facts.get("line"))]
        more = ", ".join(filter(None, (facts.get("reason") or facts.get("in") or one.cut, _by(one))))
        state = one.state + (f": {more}" if more else "")
        rows.append((one.stage, one.variant or "shared", one.digest[:12], state, *place))
    yield ShownRows(("in", "variant", "digest", "split", "file or task", "line"), rows)


def inside_parts(found: SearchAnswer) -> Iterator[Part]:
    """Print records and questions that contain what was asked for, and what learned from the former."""
    for line in found.cannot:
        yield f"cannot be searched: {line}"
    if found.rows:
        yield f"{counted(found.rows, 'row')} {'contains' if found.rows == 1 else 'contain'} it:"
        rows = []
        for one in found.records[:SHOWN]:
            first = one.found[0] if one.found else None
            facts = {} if first is None else first.facts
            place = (str(facts.get("file") or ""), str(facts.get("line") or ""))
            state = "" if first is None else first.state
            rows.append((one.identity[:12], *place, state, _learned(one.models)))
        yield ShownRows(("identity", "file", "line", "split", "models that learned from it"), rows)
    if found.cut:
        yield "the same as far as they were cut:"
        yield from places_parts(place for one in found.cut for place in one.found)
    if found.questions:
        yield f"{counted(found.questions, 'stored question or answer', 'stored questions or answers')}:"
        yield from places_parts(found.asked[:SHOWN])
    more = max(found.rows - SHOWN, 0), max(found.questions - SHOWN, 0)
    if any(more):
        yield f"not shown: {counted(more[0], 'row')} and {counted(more[1], 'question')}; --json has some more"
    if found.looked_up < found.rows:
        yield f"models are told of the first {found.looked_up:,} rows; others may have learned from the rest"
    yield from models_parts(found.models)


def _learned(models: Iterable[ModelThatHas]) -> str:
    from ft_dagster.audit.records import INHERITED, TRAINED

    return ", ".join(sorted({each.variant for each in models if each.how in (TRAINED, INHERITED)})) or "none"


def near_parts(found: NearAnswer) -> Iterator[Part]:
    """Print records near one that was asked for, and what learned from each."""
    holders = counted(found.artifacts, "data set or corpus", "data sets and corpora")
    of = f"{counted(found.rows, 'row')} of {holders}"
    said = f"near it, from a similarity of {found.threshold:g}: {counted(found.near, 'record')} of {of}"
    gone = f"; of {found.removed:,} more retention removed the text" if found.removed else ""
    yield f"{said}, read in {found.seconds:.1f} s{gone}"
    if not found.records:
        return
    rows = []
    for one in found.records[:SHOWN]:
        facts = one.found[0].facts if one.found else {}
        place = f"{facts.get('file') or ''}:{facts.get('line') or ''}".strip(":")
        rows.append((f"{one.similarity:.3f}", one.identity[:12], place, _learned(one.models)))
    yield ShownRows(("similarity", "identity", "first of", "models that learned from it"), rows)
    if found.near > SHOWN:
        yield f"the {SHOWN} nearest; --json has {len(found.records):,}"


def models_parts(models: tuple[ModelThatHas, ...]) -> Iterator[Part]:
    if not models:
        return
    rows = []
    for one in models:
        through = one.through[:12] if one.through else ""
        measured = f"{one.measured} were measured" if one.measured else ""
        said = ", ".join(filter(None, (through, measured, one.cut, _by(one))))
        more = f" ({said})" if said else ""
        times = "" if one.times is None else str(one.times)
        exports = ", ".join(digest[:12] for digest in one.exports)
        as_versions = ", ".join(map(released, one.releases)) or "not released"
        rows.append((one.variant, one.weights[:12], one.how + more, times, exports, as_versions))
    yield ShownRows(("model", "weights", "how", "times", "exports", "released as"), rows)


def _by(one: RecordIn | ModelThatHas) -> str:
    return "by identity 1" if one.alike else ""


def unread_parts(problems: Iterable[str]) -> Iterator[Part]:
    for line in dict.fromkeys(problems):
        yield WrongLine("could not be read", line)


def released(one: Any) -> str:
    return f"{one.variant} v{one.version}" + (" (in production)" if one.production else "")


def print_of(file: Mapping[str, Any]) -> str:
    return str(file.get("sha256") or file.get("etag") or file.get("revision") or "")


def verified_parts(found: Verified, cannot_notice: Iterable[str]) -> Iterator[Part]:
    for line in found.problems:
        yield WrongLine("does not hold", line)
    for line in found.unchecked:
        yield f"not checked: {line}"
    before = f" ({found.before:,} of them before)" if found.before else ""
    gone = f", {found.removed:,} of them removed by retention" if found.removed else ""
    holds = "all that was checked holds" if found.unchecked else "all holds"
    what = holds if found.holds else counted(len(found.problems), "problem")
    measured = f"{found.bytes / 1e6:,.1f} MB in {found.seconds:.1f} s"
    yield f"{counted(found.artifacts, 'artifact')}{before}{gone}, {measured}: {what}"
    for line in cannot_notice:
        yield f"not noticed by any check: {line}"
    yield f"signatures: {found.signed}"
    if found.amended:
        yield f"AMENDED: {counted(found.amended, 'artifact')}, by what stands under amendments/"
    if found.unsalted:
        holds = "holds" if found.unsalted == 1 else "hold"
        yield f"{counted(found.unsalted, 'file')} {holds} unsalted identities"
    if cannot_notice and found.since:
        yield f"release and erasure logs, heads and tries are held against what they were since {found.since}"


def proof_parts(found: ProofChecked) -> Iterator[Part]:
    said = f"{found.kind} {'holds' if found.shown else 'not shown'}: {found.variant}, weights {found.model}"
    yield said
    for name, value in found.facts.items():
        if value is not None:
            yield f"  {name}: {value}"
    for step in found.steps:
        yield f"checked: {step}"
    for step in found.unchecked:
        yield f"not checked: {step}"
    yield f"sha256 of the model's manifest: {found.manifest}"


def model_parts(found: ModelAnswer) -> Iterator[Part]:
    yield ShownRows((), [*_origin(found), *_making(found), *_standing(found)])
    yield from unread_parts(found.unread)


def _origin(found: ModelAnswer) -> Iterator[tuple[str, str]]:
    """Yield what it is and what it was trained on."""
    base = found.base
    yield "variant", found.variant
    yield "weights", found.weights
    yield "made (UTC)", found.created
    yield "base", f"{base.get('reference')} {base.get('revision') or ''} {base.get('digest', 'gone')[:12]}"
    if found.parent:
        gone = ", whose weights are gone" if found.parent["gone"] else ""
        if found.parent["removed"]:
            gone = f", whose weights were removed by retention on {found.parent['removed'][:10]}"
        yield "starts from", f"{found.parent['variant']} v{found.parent['version']}{gone}"
    for source in found.sources:
        counts = ", ".join(f"{name} {n:,}" for name, n in source.rows.items())
        yield "source", f"{source.path}: {counts}; {', '.join(print_of(file)[:12] for file in source.files)}"
    if found.mixture:
        share = found.mixture["general_share"]
        yield "trained tokens", ", ".join(f"{name} {n:,}" for name, n in found.mixture["by_source"].items())
        if found.in_part or found.perhaps_in_part:
            perhaps = f"; perhaps {found.perhaps_in_part:,} more, which their mixture does not say"
            said = f"{found.in_part:,} of the records{perhaps if found.perhaps_in_part else ''}"
            yield "in part alone", said
        yield "general share", f"asked {share['asked']:.1%}, realized {share['realized']:.2%}"


def _making(found: ModelAnswer) -> Iterator[tuple[str, str]]:
    """Yield by what it was trained and judged."""
    from ft_dagster.gate.verdict_words import verdict_sentence
    from ft_dagster.lineage.verdict import Verdict

    method, verdict = found.recipe.get("method") or {}, found.evaluation.get("verdict") or {}
    libraries = found.environment.get("libraries", {})
    shown = [f"{name} {libraries[name]}" for name in ("torch", "transformers", "peft") if name in libraries]
    yield "method", f"{method.get('name')} on {found.recipe.get('on')}"
    yield "training", f"{found.training.get('steps')} steps, {found.compute.own or 0:.3g} FLOPs"
    yield "beside its base", _beside_base(found.compute)
    yield "made with", ", ".join([f"Python {found.environment.get('python')}", *shown])
    said = verdict_sentence(Verdict.from_json(verdict)) if verdict else "none"
    yield "verdict", said


def _beside_base(compute: Compute) -> str:
    """Say whether all that was trained on a base is more than a third of what the base took."""
    if compute.share is not None and compute.base_flops is not None:
        said = "more" if compute.passes else "not more"
        took = f"{compute.base_flops:.3g} FLOPs that {compute.base} took"
        return f"{compute.share:.2%} of the {took}: {said} than a third"
    if not compute.base:
        return "not known: what it starts from is gone"
    if compute.base_flops is None:
        return f"not known: `base_training_flops` of ft_dagster.yaml does not say what {compute.base} took"
    return "not known: the FLOPs of a training were not counted"


def _standing(found: ModelAnswer) -> Iterator[tuple[str, str]]:
    """Yield what became of it, and all that it was made of."""
    for entry in found.releases:
        done = f"{entry['action']} of version {entry['version']}"
        yield "log", f"{done}, {entry['at']}, by {entry['by']}: {entry['reason']}"
    yield "signatures", found.signed
    for child in found.children:
        yield "child", child
    for part in found.parts:
        said = "gone from the store" if part.gone else f"{part.created}, code {part.code[:12]}"
        said += f", removed by retention on {part.removed[:10]}" if part.removed else ""
        yield part.stage, f"{part.digest[:12]}  {said}"
