"""Shows answers of an audit on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ft_dagster.cli.common import escape, out, show, show_rows, tell
from ft_dagster.report.tables import counted

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
    from ft_dagster.audit.proofs.proofs import ProofChecked
    from ft_dagster.audit.verify.verify import Verified

SHOWN = 20  # of what a record that nobody saw was held against


def print_held(held: HeldAgainst) -> None:
    """Print what a record that nobody saw was compared with; the first SHOWN of it."""
    holders: dict[tuple[str, str, str, str], list[Absence]] = {}
    for one in held.absences:
        named = (one.stage, one.variant or "shared", one.digest[:12], f"{one.records:,}")
        holders.setdefault(named, []).append(one)
    rows = []
    for named, absences in list(holders.items())[:SHOWN]:
        first, beside = absences[0], "; ".join(map(_between, absences))
        rows.append((*named, *((first.unproved, "") if first.unproved else (beside, first.root[:12]))))
    if rows:
        show_rows(("not in", "variant", "digest", "records", "between leaves", "root"), rows)
    names = sorted({model.variant for model in held.models})
    more = [f"{len(each) - SHOWN:,} more" for each in (holders, names) if len(each) > SHOWN]
    if names:
        tell(f"models: {', '.join(names[:SHOWN])}")
    if more:
        out.print(f"and {' and '.join(more)}: --json shows all", highlight=False)
    if any(not one.unproved for one in held.absences):
        said = "that nothing is between two leaves shows to who has the tenant's key; --json has their paths,"
        out.print(f"{said} `audit prove RECORD MODEL` a file", highlight=False, soft_wrap=True)


def _between(absence: Absence) -> str:
    return " and ".join(f"{leaf['index']:,}" for leaf in absence.leaves) or "none"


def print_places(places: Iterable[RecordIn]) -> None:
    """Print where a record, or a question, is."""
    rows = []
    for one in places:
        facts = one.facts
        place = [str(said or "") for said in (facts.get("file") or facts.get("task"), facts.get("line"))]
        more = facts.get("reason") or facts.get("in") or one.cut
        state = one.state + (f": {more}" if more else "")
        rows.append((one.stage, one.variant or "shared", one.digest[:12], state, *place))
    show_rows(("in", "variant", "digest", "split", "file or task", "line"), rows)


def print_inside(found: SearchAnswer) -> None:
    """Print records and questions that contain what was asked for, and what learned from the former."""
    for line in found.cannot:
        tell(f"cannot be searched: {line}")
    if found.rows:
        tell(f"{counted(found.rows, 'row')} {'contains' if found.rows == 1 else 'contain'} it:")
        rows = []
        for one in found.records[:SHOWN]:
            first = one.found[0] if one.found else None
            facts = {} if first is None else first.facts
            place = (str(facts.get("file") or ""), str(facts.get("line") or ""))
            state = "" if first is None else first.state
            rows.append((one.identity[:12], *place, state, _learned(one.models)))
        show_rows(("identity", "file", "line", "split", "models that learned from it"), rows)
    if found.cut:
        tell("the same as far as they were cut:")
        print_places(place for one in found.cut for place in one.found)
    if found.questions:
        tell(f"{counted(found.questions, 'stored question or answer', 'stored questions or answers')}:")
        print_places(found.asked[:SHOWN])
    more = max(found.rows - SHOWN, 0), max(found.questions - SHOWN, 0)
    if any(more):
        tell(f"not shown: {counted(more[0], 'row')} and {counted(more[1], 'question')}; --json has some more")
    if found.looked_up < found.rows:
        tell(f"models are told of the first {found.looked_up:,} rows; others may have learned from the rest")
    print_models(found.models)


def _learned(models: Iterable[ModelThatHas]) -> str:
    from ft_dagster.audit.records import INHERITED, TRAINED

    return ", ".join(sorted({each.variant for each in models if each.how in (TRAINED, INHERITED)})) or "none"


def print_near(found: NearAnswer) -> None:
    """Print records near one that was asked for, and what learned from each."""
    holders = counted(found.artifacts, "data set or corpus", "data sets and corpora")
    of = f"{counted(found.rows, 'row')} of {holders}"
    said = f"near it, from a similarity of {found.threshold:g}: {counted(found.near, 'record')} of {of}"
    gone = f"; of {found.removed:,} more retention removed the text" if found.removed else ""
    tell(f"{said}, read in {found.seconds:.1f} s{gone}")
    if not found.records:
        return
    rows = []
    for one in found.records[:SHOWN]:
        facts = one.found[0].facts if one.found else {}
        place = f"{facts.get('file') or ''}:{facts.get('line') or ''}".strip(":")
        rows.append((f"{one.similarity:.3f}", one.identity[:12], place, _learned(one.models)))
    show_rows(("similarity", "identity", "first of", "models that learned from it"), rows)
    if found.near > SHOWN:
        out.print(f"the {SHOWN} nearest; --json has {len(found.records):,}", highlight=False)


def print_models(models: tuple[ModelThatHas, ...]) -> None:
    if not models:
        return
    rows = []
    for one in models:
        through = one.through[:12] if one.through else ""
        measured = f"{one.measured} were measured" if one.measured else ""
        said = ", ".join(filter(None, (through, measured, one.cut)))
        more = f" ({said})" if said else ""
        times = "" if one.times is None else str(one.times)
        exports = ", ".join(digest[:12] for digest in one.exports)
        as_versions = ", ".join(map(released, one.releases)) or "not released"
        rows.append((one.variant, one.weights[:12], one.how + more, times, exports, as_versions))
    show_rows(("model", "weights", "how", "times", "exports", "released as"), rows)


def print_unread(problems: Iterable[str]) -> None:
    for line in dict.fromkeys(problems):
        out.print(f"[red]could not be read[/] {escape(line)}", highlight=False, soft_wrap=True)


def released(one: Any) -> str:
    return f"{one.variant} v{one.version}" + (" (in production)" if one.production else "")


def print_of(file: Mapping[str, Any]) -> str:
    return str(file.get("sha256") or file.get("etag") or file.get("revision") or "")


def print_verified(found: Verified, cannot_notice: Iterable[str]) -> None:
    for line in found.problems:
        out.print(f"[red]does not hold[/] {escape(line)}", highlight=False, soft_wrap=True)
    for line in found.unchecked:
        tell(f"not checked: {line}")
    before = f" ({found.before:,} of them before)" if found.before else ""
    gone = f", {found.removed:,} of them removed by retention" if found.removed else ""
    holds = "all that was checked holds" if found.unchecked else "all holds"
    what = holds if found.holds else counted(len(found.problems), "problem")
    measured = f"{found.bytes / 1e6:,.1f} MB in {found.seconds:.1f} s"
    out.print(f"{counted(found.artifacts, 'artifact')}{before}{gone}, {measured}: {what}", highlight=False)
    for line in cannot_notice:
        tell(f"not noticed by any check: {line}")
    if cannot_notice and found.since:
        tell(f"release logs, heads and tries are held against what they were since {found.since}")


def print_proof(found: ProofChecked) -> None:
    said = f"{found.kind} {'holds' if found.shown else 'not shown'}: {found.variant}, weights {found.model}"
    out.print(said, highlight=False, soft_wrap=True)
    for name, value in found.facts.items():
        if value is not None:
            tell(f"  {name}: {value}")
    for step in found.steps:
        tell(f"checked: {step}")
    for step in found.unchecked:
        tell(f"not checked: {step}")
    out.print(f"sha256 of the model's manifest: {found.manifest}", highlight=False, soft_wrap=True)


def print_model(found: ModelAnswer) -> None:
    table = Table(box=None, show_header=False)
    for name, value in (*_origin(found), *_making(found), *_standing(found)):
        table.add_row(name, escape(value))
    show(table)
    print_unread(found.unread)


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
    for child in found.children:
        yield "child", child
    for part in found.parts:
        said = "gone from the store" if part.gone else f"{part.created}, code {part.code[:12]}"
        said += f", removed by retention on {part.removed[:10]}" if part.removed else ""
        yield part.stage, f"{part.digest[:12]}  {said}"
