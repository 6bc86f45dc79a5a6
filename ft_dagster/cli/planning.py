"""Defines commands that decide before anything is trained: plan and recommend."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import PLANNING, Json, Key, load_settings, out, print_json, quiet, show, tell
from ft_dagster.cli.steps import steps_said
from ft_dagster.errors import UserError
from ft_dagster.objectives import DEFAULT, known
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from ft_dagster.planning.cost.serving import Manner
    from ft_dagster.planning.estimate import SurveyDocument
    from ft_dagster.planning.hardware.catalogue import Catalogue, Hardware
    from ft_dagster.settings import Settings


def _as_svg(picture: Path | None) -> Path | None:
    if picture is not None and picture.suffix.lower() != ".svg":
        raise UserError("it is drawn as SVG", field="--picture", value=str(picture), fix="Let it end in .svg")
    if picture is not None and not picture.parent.is_dir():
        fix = "Make it first, or name another file"
        raise UserError("no such folder", field="--picture", value=str(picture.parent), fix=fix)
    return picture


Picture = Annotated[
    Path | None,
    typer.Option(help="Write a stacked bar of each method's memory to this SVG", callback=_as_svg),
]


@app.command(rich_help_panel=PLANNING)
def plan(
    context: typer.Context,
    variant: Key,
    gpus: Annotated[str | None, typer.Option(help="Such as 2xA100-80GB; this host's unless given")] = None,
    picture: Picture = None,
    ask_base: Annotated[
        bool,
        typer.Option(
            "--ask-base", help="Ask the base with 0, 4 and 8 examples in its prompt, if it was not asked yet"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a variant's plan as it would be made now: method, memory, time and cost, each with its reason.

    Nothing is trained or kept, but for the base's answers and the rows they need with `--ask-base`. Until the
    variant has a mixture, its size is estimated from a sample of the sources. After 3 s each step is reported
    on stderr. Exits with 1 if the training does not fit.
    """
    from ft_dagster.planning.hardware.catalogue import load_catalogue
    from ft_dagster.planning.parallel import in_own_process
    from ft_dagster.report.sentences.next_step import next_of_plan
    from ft_dagster.report.tables.recommendation import cost_rows
    from ft_dagster.versions.preview import plan_variant

    quiet()
    settings = load_settings(context.obj)
    hardware = None if gpus is None else _hardware(load_catalogue(settings.project), gpus)
    if ask_base:
        _ask_base(settings, VariantKey.parse(variant))
    with steps_said(as_json) as say:
        preview = in_own_process(lambda: plan_variant(settings, VariantKey.parse(variant), hardware, say))
    document = preview.estimate
    _draw(document, picture)
    if as_json:
        print_json(preview.to_json())
    else:
        out.print(f"{variant} on {document.on}; GB = 1e9 bytes", highlight=False)
        out.print(
            f"{preview.examples:,} examples, {preview.tokens:,} tokens ({preview.basis})",
            highlight=False,
            soft_wrap=True,
        )
        _show(document)
        for name, value in cost_rows(document):
            tell(f"{name}: {value}")
        for row in document.plan.reasons:
            if row.origin != "declaration":
                said = f"  {row.field}: {row.value} - {row.reason}"
                tell(said)
        for line in preview.with_examples:
            tell(f"without a training: {line}")
        for line in (*preview.few_shot, *preview.looks, *(f"! {line}" for line in preview.warnings)):
            tell(line)
        tell(f"Next: {next_of_plan(variant, fits=document.fits)}")
    if not document.fits:
        raise typer.Exit(1)


def _ask_base(settings: Settings, key: VariantKey) -> None:
    """Ask the base under a lease; what happens is told beside a document of `--json`."""
    from ft_dagster.launch.local import ProgramFailed
    from ft_dagster.versions.prompted import ask_base
    from ft_dagster.workspace.workspace import RunOf

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        ask_base(settings, key, RunOf(reason="plan --ask-base", say=say))
    except ProgramFailed as failure:
        raise UserError(str(failure), fix="Ask again; see the log that is named") from None


def _draw(document: SurveyDocument, picture: Path | None) -> None:
    if picture is None:
        return
    from ft_dagster.report.charts.memory_plot import memory_bars

    try:
        picture.write_text(memory_bars(document), "utf-8")
    except OSError as error:
        problem = error.strerror or "cannot be written"
        raise UserError(problem, field="--picture", value=str(picture), fix="Name another file") from None


def _show(document: SurveyDocument) -> None:
    """Show the ranking, what is planned with its memory, and the reasons."""
    from ft_dagster.report.tables.recommendation import memory_line, ranking_table, reasons_lines

    show(ranking_table(document))
    chosen = document.method or f"nothing fits; {document.plan.name}"
    out.print(f"[bold]{chosen}[/]: {memory_line(document)}", highlight=False, soft_wrap=True)
    for line in reasons_lines(document):
        tell(line)


@app.command(rich_help_panel=PLANNING)
def recommend(
    context: typer.Context,
    examples: Annotated[int, typer.Option(help="How many training examples")],
    model: Annotated[
        str | None, typer.Option(help="A config.json, its folder, or a shipped name such as Llama-3-8B")
    ] = None,
    params: Annotated[float | None, typer.Option(help="Its parameters instead, such as 13e9")] = None,
    gpus: Annotated[str | None, typer.Option(help="Such as 2xA100-80GB; this host's unless given")] = None,
    objective: Annotated[str, typer.Option(help=known())] = DEFAULT,
    general_share: Annotated[
        float, typer.Option(help="Share of general data; 0: general ability need not be kept")
    ] = 0.08,
    method: Annotated[str | None, typer.Option(help="Compare this method with the best")] = None,
    variants: Annotated[int, typer.Option(help="How many variants share the base, this one included")] = 1,
    budget: Annotated[float | None, typer.Option(help="Most USD for one training and its evaluation")] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Most hours for one training and its evaluation")
    ] = None,
    serving: Annotated[
        str | None, typer.Option(help="adapters: one base with all; copies: a model each")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=0, help="Tokens added to the vocabulary")] = 0,
    tokens_per_example: Annotated[float, typer.Option(help="Tokens of prompt and answer together")] = 250.0,
    max_length: Annotated[int, typer.Option(help="Most tokens of a row")] = 1024,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Rows a device takes at once; what fits unless given")
    ] = None,
    picture: Picture = None,
    as_json: Json = False,
) -> None:
    """Rank all methods, with reasons, and say whether the best one fits and what it costs.

    Memory comes from a dry run of the training step on the model's shapes, without its weights. Time is the
    counted FLOPs divided by a stated share of the card's peak. Exits with 1 if nothing fits.
    """
    from ft_dagster.planning.hardware.catalogue import load_catalogue
    from ft_dagster.planning.parallel import in_own_process
    from ft_dagster.planning.recommend import RecommendationRequest, recommend_method

    quiet()
    hardware = _hardware(load_catalogue(context.obj), gpus)
    request = RecommendationRequest(
        examples=examples,
        model=model,
        params=params,
        tokens_per_example=tokens_per_example,
        max_length=max_length,
        micro_batch=micro_batch,
        objective=objective,
        method=method,
        variants=variants,
        new_tokens=new_tokens,
        budget_usd=budget,
        deadline_hours=deadline,
        serving=_served(serving),
        general_share=general_share,
    )
    with steps_said(as_json) as say:
        document = in_own_process(lambda: recommend_method(request, hardware, say).document())
    _draw(document, picture)
    _answer(document, hardware, as_json)


def _answer(document: SurveyDocument, hardware: Hardware, as_json: bool) -> None:
    if as_json:
        print_json(document.to_json())
    else:
        out.print(f"on {hardware}; GB = 1e9 bytes", highlight=False)
        _show(document)
    if not document.fits:
        raise typer.Exit(1)


def _hardware(catalogue: Catalogue, gpus: str | None) -> Hardware:
    if gpus is not None:
        return catalogue.gpus(gpus, field="--gpus")
    from ft_dagster.host_settings import Host
    from ft_dagster.launch.inventory import find_devices

    return catalogue.found(find_devices(Host()))


def _served(manner: str | None) -> Manner | None:
    if manner in (None, "adapters", "copies"):
        return cast("Manner | None", manner)
    raise UserError("no such way to serve", field="--serving", value=manner, fix="Take adapters or copies")
