"""`ft-dagster`: the command line over the same core and the same Dagster instance as the UI."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ft_dagster.errors import UserError
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import CorpusSpec, VariantKey, VariantSpec, load_variant, variant_files

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from ft_dagster.automation.instance import Daemon, Launched
    from ft_dagster.planning.catalogue import Catalogue, Hardware
    from ft_dagster.planning.serving import Manner

app = typer.Typer(
    help="Fine-tune language models for many tenants: declare, run, compare, release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console(width=None if sys.stdout.isatty() else 120)
Key = Annotated[str, typer.Argument(help="A variant, as tenant.variant", metavar="VARIANT")]
Keys = Annotated[list[str] | None, typer.Argument(help="Variants, as tenant.variant", metavar="[VARIANT]...")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else")]
POLL_SECONDS = 1.0


@app.callback()
def project(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--project", envvar="FT_DAGSTER_PROJECT", help="The folder with tenants/; else the current one"
        ),
    ] = None,
) -> None:
    context.obj = folder


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The project folder to make")],
    base_model: Annotated[str, typer.Option(help="Local folder, hub id or s3:// prefix")],
    data: Annotated[str, typer.Option(help="The tenant's rows: file, folder, glob, s3:// or hub id")],
    variant: Annotated[str, typer.Option(help="tenant.variant")] = "acme.support",
    as_json: Json = False,
) -> None:
    """Start a project: settings, defaults for all tenants, and a first declaration. Never overwrites."""
    from ft_dagster.spec.start import start_project

    made = start_project(folder, VariantKey.parse(variant), base_model, data)
    if as_json:
        _print_json({"project": str(folder), "made": [str(path) for path in made]})
        return
    for path in made:
        out.print(f"made {path}")
    out.print(f"Next: [bold]ft-dagster --project {folder} check[/] and [bold]run {variant}[/]")


@app.command()
def check(context: typer.Context, variants: Keys = None, as_json: Json = False) -> None:
    """Read declarations, their sources, corpora, tasks and base models; report every mistake."""
    from ft_dagster.report.check import check_variant

    settings = load_settings(context.obj)
    found: list[dict[str, Any]] = []
    for key in _keys(settings, variants, every=True):
        try:
            found.append({"variant": str(key), "ok": True, **check_variant(settings, key)})
        except UserError as error:
            found.append({"variant": str(key), "ok": False, "error": error.as_dict(), "message": str(error)})
    if as_json:
        _print_json({"variants": found})
    else:
        for one in found:
            mark = "[green]ok[/]" if one["ok"] else "[red]wrong[/]"
            out.print(f"{mark} {one['variant']}", end="  ")
            out.print(one.get("message") or one["summary"], markup=False, highlight=False, soft_wrap=True)
    if not all(one["ok"] for one in found):
        raise typer.Exit(2)


@app.command()
def schema(
    corpus: Annotated[bool, typer.Option("--corpus", help="Of corpora/<name>.yaml instead")] = False,
) -> None:
    """Print the JSON Schema of a declaration, with which an editor completes and checks the file."""
    _print_json((CorpusSpec if corpus else VariantSpec).model_json_schema())


@app.command()
def run(
    context: typer.Context,
    variants: Keys = None,
    every: Annotated[bool, typer.Option("--all", help="Every declared variant")] = False,
    detach: Annotated[bool, typer.Option(help="Submit and leave; a running daemon takes them")] = False,
    reason: Annotated[str, typer.Option(help="Tag on the runs: why")] = "cli",
    as_json: Json = False,
) -> None:
    """Take variants through the whole graph, in the Dagster instance that the UI shows.

    Unchanged stages are reused. Ctrl-C cancels the runs and waits until nothing of them is left.
    """
    from ft_dagster.automation import instance as dagster_instance

    settings = load_settings(context.obj)
    keys = _keys(settings, variants, every=every)
    for key in keys:
        load_variant(settings.project, key)
    with dagster_instance.open_instance(settings) as instance:
        if detach:
            launched = dagster_instance.launch(instance, settings, keys, reason)
            _print_json([{"variant": str(r.key), "run_id": r.run_id} for r in launched])
            return
        with dagster_instance.Daemon(instance, settings) as daemon:
            launched = dagster_instance.launch(instance, settings, keys, reason)
            _watch(instance, settings, launched, daemon, as_json)
        _conclude(instance, settings, launched, as_json)


@app.command()
def status(context: typer.Context, variants: Keys = None, as_json: Json = False) -> None:
    """Each variant's newest artifacts and release, from the store alone."""
    from ft_dagster.report.summary import stage_digests, variant_row

    settings = load_settings(context.obj)
    store = settings.open_store()
    rows = [
        {**variant_row(store, key), "stages": stage_digests(store, key)}
        for key in _keys(settings, variants, every=True)
    ]
    if as_json:
        _print_json({"variants": rows})
        return
    table = Table("variant", "newest stage", "gate", "version", "digest", "stale")
    for row in rows:
        done = [stage for stage, digest in row["stages"].items() if digest]
        gate = {True: "[green]pass[/]", False: "[red]fail[/]", None: "-"}[row["gate"]]
        version = "-" if row["version"] is None else str(row["version"])
        digest, stale = (row["digest"] or "-")[:12], row["stale"] or "-"
        table.add_row(row["variant"], done[-1] if done else "-", gate, version, digest, stale)
    out.print(table)


@app.command()
def show(context: typer.Context, variant: Key, as_json: Json = False) -> None:
    """Every value of a declaration and where it came from: the file, the defaults, or built in."""
    settings = load_settings(context.obj)
    declared = load_variant(settings.project, VariantKey.parse(variant))
    values = _flat(declared.spec.model_dump(mode="json"))
    planned = _planned(settings, declared.key)
    if as_json:
        fields = {name: {"value": value, "from": declared.origins[name]} for name, value in values.items()}
        _print_json({"variant": variant, "file": str(declared.file), "fields": fields, "plan": planned})
        return
    table = Table("field", "value", "from", title=f"{variant} ({declared.file})")
    for name, value in values.items():
        table.add_row(name, _shown(name, value), declared.origins[name])
    out.print(table)
    if planned:
        plan = Table("field", "value", "from", "why", title="newest plan")
        for reason in planned:
            plan.add_row(reason["field"], json.dumps(reason["value"]), reason["origin"], reason["reason"])
        out.print(plan)


@app.command()
def compare(
    context: typer.Context, variants: Annotated[list[str], typer.Argument(metavar="VARIANT...")],
    as_json: Json = False,
) -> None:  # fmt: skip
    """Base against tuned by every rule of the gate, for one variant or several side by side."""
    from ft_dagster.report.summary import variant_row

    settings = load_settings(context.obj)
    store = settings.open_store()
    rows = [variant_row(store, key) for key in _keys(settings, variants, every=False)]
    if as_json:
        _print_json({"variants": rows})
        return
    for row in rows:
        out.print(_rules_table(row) if row["rules"] else f"{row['variant']}: not evaluated yet")


def _rules_table(row: dict[str, Any]) -> Table:
    from ft_dagster.report.tables import change

    table = Table(
        "task", "base → tuned", "difference (95% interval)", "margin", "holds", title=row["variant"]
    )
    for rule in row["rules"]:
        low, high = rule["interval"]
        table.add_row(
            f"{rule['task']}\n[dim]{rule['metric']}[/]",
            change(rule["metric"], rule["base"], rule["tuned"]),
            f"{rule['difference']:+.3f} ({low:+.3f} to {high:+.3f})",
            f"{rule['margin']:g}",
            "[green]yes[/]" if rule["passed"] else "[red]no[/]",
        )
    return table


@app.command("try")
def try_(
    context: typer.Context,
    variants: Keys = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Ask this; may be repeated")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="A YAML file of variant: [prompt, ...]; asks all of them")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096)] = 64,
    as_json: Json = False,
) -> None:
    """Talk to a variant's model and to its base, side by side. Without a prompt it asks for one.

    Prompts are rendered as the rows were in training: as a chat turn after the declared system message, or
    as plain text for prompt and completion rows.
    """
    from ft_dagster.evaluation.answers import answer
    from ft_dagster.report.answers import answers_table
    from ft_dagster.report.models import newest_model
    from ft_dagster.spec.load import read_yaml

    _quiet()
    settings = load_settings(context.obj)
    asked = _asked(settings, variants, prompt, read_yaml(prompts) if prompts else {}, prompts)
    printed: list[dict[str, Any]] = []
    for key, texts in asked.items():
        model = newest_model(settings, key)
        declared = load_variant(settings.project, key)
        system = next((source.system for source in declared.spec.data.sources if source.system), None)
        answers = answer(
            model.base, model.tuned, texts, chat=model.chat, system=system, max_new_tokens=max_new_tokens
        )
        printed.append(
            {
                "variant": str(key),
                "answers": [{"prompt": a.prompt, "base": a.base, "tuned": a.tuned} for a in answers],
            }
        )
        if not as_json:
            out.print(answers_table(str(key), printed[-1]["answers"]))
    if as_json:
        _print_json(printed)


@app.command()
def ui(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """Open the project's instance in Dagster's UI, with its daemon, until Ctrl-C."""
    import os

    from ft_dagster.automation.instance import open_instance, workspace_file

    settings = load_settings(context.obj)
    with open_instance(settings):  # made before webserver and daemon both find it absent
        workspace = workspace_file(settings)
    program = str(Path(sys.executable).with_name("dagster"))
    os.execv(program, [program, "dev", "-w", str(workspace), "-h", host, "-p", str(port)])


@app.command()
def recommend(
    context: typer.Context,
    examples: Annotated[int, typer.Option(help="Training examples")],
    model: Annotated[
        str | None, typer.Option(help="A config.json, its folder, or a shipped name such as Llama-3-8B")
    ] = None,
    params: Annotated[float | None, typer.Option(help="Its size instead, such as 13e9")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="Such as 2xA100-80GB; left out: what this host has")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="instruction, domain_knowledge or task_specific")
    ] = "instruction",
    method: Annotated[str | None, typer.Option(help="Hold this one against the best")] = None,
    variants: Annotated[int, typer.Option(help="On the same base, this one among them")] = 1,
    budget: Annotated[float | None, typer.Option(help="USD for one training and its evaluation")] = None,
    deadline: Annotated[float | None, typer.Option(help="Hours for one training and its evaluation")] = None,
    serving: Annotated[
        str | None, typer.Option(help="adapters: one base with all; copies: a model each")
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=0, help="Tokens added to the vocabulary")] = 0,
    tokens_per_example: Annotated[float, typer.Option(help="Prompt and answer")] = 250.0,
    max_length: Annotated[int, typer.Option(help="Tokens of a row")] = 1024,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Rows; left out: what fits")] = None,
    as_json: Json = False,
) -> None:
    """Which method to take, does it fit, what will it cost: all methods ranked, with reasons.

    Memory is that of a dry run of the training step on the model's shapes, without its weights; time is
    counted FLOPs over a stated share of the card's peak. Exits with 1 if nothing fits.
    """
    from ft_dagster.planning import recommend as recommendation
    from ft_dagster.planning.catalogue import load_catalogue
    from ft_dagster.report.recommendation import memory_line, ranking_table, reasons_lines

    _quiet()
    hardware = _hardware(load_catalogue(context.obj), gpus)
    asked = recommendation.Asked(
        examples, model, params, tokens_per_example, max_length, micro_batch, objective, method, variants,
        new_tokens, budget, deadline, _served(serving),
    )  # fmt: skip
    document = recommendation.recommend(asked, hardware).to_json()
    if as_json:
        _print_json(document)
    else:
        out.print(f"on {hardware}; GB = 1e9 bytes", highlight=False)
        out.print(ranking_table(document))
        chosen = document["method"] or f"nothing fits; {document['plan']['method']['name']}"
        out.print(f"[bold]{chosen}[/]: {memory_line(document)}", highlight=False, soft_wrap=True)
        for line in reasons_lines(document):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
    if not document["fits"]:
        raise typer.Exit(1)


def _hardware(catalogue: Catalogue, gpus: str | None) -> Hardware:
    if gpus is not None:
        return catalogue.gpus(gpus, field="--gpus")
    from ft_dagster.launch.inventory import find_devices
    from ft_dagster.settings import Host

    return catalogue.found(find_devices(Host()))


def _served(manner: str | None) -> Manner | None:
    if manner in (None, "adapters", "copies"):
        return cast("Manner | None", manner)
    raise UserError("no such way to serve", field="--serving", value=manner, fix="Take adapters or copies")


def _quiet() -> None:
    """Libraries' talk at import, of no use to who asks."""
    import logging
    import warnings

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


Budgeted = typer.Option("--budget", help="flops=2e14 or minutes=3", metavar="flops=N|minutes=N")


@app.command()
def bakeoff(
    context: typer.Context,
    variant: Key,
    methods: Annotated[str, typer.Option(help="Two or more, for example full,lora,qlora")],
    budget: Annotated[str, Budgeted],
    as_json: Json = False,
) -> None:
    """Train one variant by several methods at equal FLOPs or equal time, and judge them side by side.

    FLOPs are counted by torch over the batches that will be trained on; minutes are those of the optimizer
    steps, at the speed of a short training. The variant's own models and releases are left alone. The same
    command goes on where it was ended. Exits with 1 if a method failed.
    """
    from ft_dagster.automation import bakeoff as bakeoffs
    from ft_dagster.automation.budget import Budget
    from ft_dagster.report.experiments import bakeoff_table

    settings = load_settings(context.obj)
    declared = load_variant(settings.project, VariantKey.parse(variant))
    given = Budget.parse(budget)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    with _experimenting(settings, declared.key, as_json) as say:
        tried = bakeoffs.bakeoff(settings, declared, names, given, say)
    document = tried.as_dict()
    if as_json:
        _print_json(document)
    else:
        out.print(bakeoff_table(document["runs"], str(given)))
        for run in tried.runs:
            if run.dropped:
                out.print(
                    f"{run.name}: left out of the declaration: {', '.join(run.dropped)}",
                    markup=False,
                    highlight=False,
                )
        _say_failures(document["runs"], tried.log)
    if any(run.status != "done" for run in tried.runs):
        raise typer.Exit(1)


@app.command()
def sweep(
    context: typer.Context,
    variant: Key,
    sets: Annotated[list[str], typer.Option("--set", help="field=value,value; may be repeated")],
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Of a larger grid, this many are drawn")] = 15,
    budget: Annotated[str | None, Budgeted] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the runs of a grid larger than --runs")] = 0,
    write: Annotated[bool, typer.Option("--write", help="Write the winner into the declaration")] = False,
    write_to: Annotated[
        Path | None, typer.Option(help="Write the declaration with the winner's values here")
    ] = None,
    as_json: Json = False,
) -> None:
    """Try several values of a variant's settings, rank the runs, and write the winner back.

    Ranked by the task's metric among the runs for which the general rules of the gate hold; where they hold
    for none, by validation loss. After three finished runs, a training gives up where its validation loss is
    above their median. --budget is for all runs together. The same command goes on where it was ended.
    `run` then reuses the winner's model. Exits with 1 if no run was finished.
    """
    from ft_dagster.automation import sweep as sweeps
    from ft_dagster.automation.budget import Budget
    from ft_dagster.report.experiments import sweep_table

    settings = load_settings(context.obj)
    declared = load_variant(settings.project, VariantKey.parse(variant))
    given = Budget.parse(budget) if budget is not None else None
    with _experimenting(settings, declared.key, as_json) as say:
        tried = sweeps.sweep(settings, declared, sets, say, runs=runs, seed=seed, budget=given)
    ranking = sweeps.rank(tried.runs)
    winner = ranking.winner
    document = tried.as_dict() | {
        "ranking": [run.number for run in ranking.runs],
        "ranked_by": ranking.by,
        "reason": ranking.reason,
        "winner": None if winner is None else winner.overrides,
    }
    written = None
    if winner is not None and (write or write_to is not None):
        written = sweeps.write_winner(settings, declared, winner, None if write else write_to)
    if as_json:
        _print_json(document | {"written": None if written is None else str(written)})
    else:
        others = [run for run in tried.runs if run not in ranking.runs]
        by_number = {run["number"]: run for run in document["runs"]}
        out.print(sweep_table([by_number[r.number] for r in [*ranking.runs, *others]], ranking.by))
        out.print(ranking.reason, highlight=False)
        _say_failures(document["runs"], tried.log)
        if written is not None:
            out.print(f"written: {written}", highlight=False, soft_wrap=True)
        elif winner is not None:
            out.print(f"The winner, for {declared.file} (or give --write):", soft_wrap=True, highlight=False)
            for field, value in winner.overrides.items():
                out.print(f"  {field}: {json.dumps(value)}", markup=False, highlight=False)
    if winner is None:
        raise typer.Exit(1)


@contextmanager
def _experimenting(settings: Settings, key: VariantKey, as_json: bool) -> Iterator[Callable[[str], None]]:
    """Lines and progress in the terminal; what Dagster and the programs print goes to a file."""
    from ft_dagster.automation.screen import aside, watched

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = settings.work_folder / "experiments" / f"{key}.log"
    with aside(log, on_stderr=as_json) as screen, watched(screen, settings, key) as say:
        yield say


def _say_failures(runs: list[dict[str, Any]], log: Path) -> None:
    for run in runs:
        if run["error"]:
            out.print(f"[red]{_escape(run['name'])} {run['status']}[/]", end=": ")
            out.print(run["error"], markup=False, highlight=False, soft_wrap=True)
    if any(run["status"] == "failed" for run in runs):
        out.print(f"What the programs printed: {log}", highlight=False, soft_wrap=True)


def _asked(
    settings: Settings,
    variants: list[str] | None,
    prompt: list[str] | None,
    filed: dict[str, Any],
    file: Path | None,
) -> dict[VariantKey, list[str]]:
    if not filed:
        keys = _keys(settings, variants, every=False)
        texts = prompt or [typer.prompt("prompt")]
        return dict.fromkeys(keys, texts)
    asked = {VariantKey.parse(name, file=file): texts for name, texts in filed.items()}
    if not variants:
        return asked
    return {key: asked.get(key, prompt or []) for key in _keys(settings, variants, every=False)}


def _keys(settings: Settings, variants: list[str] | None, *, every: bool) -> list[VariantKey]:
    """The named variants, or with `every` all that are declared."""
    if variants:
        declared = variant_files(settings.project)
        keys = [VariantKey.parse(text) for text in variants]
        for key in keys:
            if key not in declared:
                load_variant(settings.project, key)
        return keys
    declared_keys = list(variant_files(settings.project)) if every else []
    if not declared_keys:
        raise UserError(
            "no variant named", fix="Name one as tenant.variant, or use --all where it is offered"
        )
    return declared_keys


def _watch(
    instance: DagsterInstance, settings: Settings, launched: list[Launched], daemon: Daemon, quiet: bool
) -> None:
    """Show the runs until all have ended; an interrupt cancels them."""
    from ft_dagster.automation.instance import cancel, unfinished

    screen = Console(stderr=True) if quiet else out
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shown = _lines if quiet or not screen.is_terminal else _table
    try:
        with shown(screen) as show:
            while True:
                show([_state(instance, settings, run) for run in launched])
                if not unfinished(instance, launched):
                    return
                daemon.ensure(launched)
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        Console(stderr=True).print("cancelling; waiting until no process of the runs is left")
        cancel(instance, launched)
        raise


class _State(NamedTuple):
    variant: str
    run: str
    state: str
    asset: str
    progress: str


def _state(instance: DagsterInstance, settings: Settings, run: Launched) -> _State:
    from ft_dagster.automation.instance import current_step, progress_of, status_of
    from ft_dagster.report.progress import bar

    state = status_of(instance, run).value.lower()
    progress = progress_of(settings, run.key) if state == "started" else {}
    return _State(str(run.key), run.run_id[:8], state, current_step(instance, run.run_id), bar(progress))


@contextmanager
def _table(screen: Console) -> Iterator[Callable[[list[_State]], None]]:
    """A live table, for a terminal."""
    with Live(console=screen, refresh_per_second=2, transient=True) as live:

        def show(states: list[_State]) -> None:
            table = Table(*_State._fields, expand=True)
            for state in states:
                table.add_row(*state)
            live.update(table)

        yield show


@contextmanager
def _lines(screen: Console) -> Iterator[Callable[[list[_State]], None]]:
    """A line whenever a run comes to another asset, for logs."""
    said: dict[str, tuple[str, str]] = {}

    def show(states: list[_State]) -> None:
        for state in states:
            if said.get(state.run) != (state.state, state.asset):
                said[state.run] = (state.state, state.asset)
                line = f"{time.strftime('%H:%M:%S')} {state.variant} {state.state} {state.asset}"
                screen.print(line.rstrip(), highlight=False, soft_wrap=True)

    yield show


def _conclude(instance: DagsterInstance, settings: Settings, launched: list[Launched], as_json: bool) -> None:
    """Print what came out; exit 1 if a run did not succeed."""
    from ft_dagster.automation.instance import failure_of, reused_everything, status_of
    from ft_dagster.report.summary import variant_row
    from ft_dagster.report.tables import release_table

    store = settings.open_store()
    rows, failed = [], False
    for run in launched:
        state = status_of(instance, run).value
        row = {**variant_row(store, run.key), "run_id": run.run_id, "run_status": state}
        row["reused"] = reused_everything(instance, run.run_id)
        if state != "SUCCESS":
            failed = True
            row["failure"] = failure_of(instance, run.run_id)
        rows.append(row)
    if as_json:
        _print_json({"variants": rows})
    else:
        out.print(release_table(rows))
        for row in rows:
            if row["run_status"] != "SUCCESS":
                out.print(f"[red]{row['variant']} {row['run_status'].lower()}[/]", end=": ")
                out.print(row["failure"], markup=False, highlight=False, soft_wrap=True)
            elif row["reused"]:
                out.print(f"{row['variant']}: nothing changed, every artifact was reused")
    if failed:
        raise typer.Exit(1)


def _shown(field: str, value: Any) -> str:
    if value is None:
        return "[dim]the plan decides[/]" if field.startswith(("method.", "training.")) else "[dim]-[/]"
    return _escape(json.dumps(value, ensure_ascii=False))


def _planned(settings: Settings, key: VariantKey) -> list[dict[str, Any]]:
    """The reasons of the variant's newest plan; none before the first."""
    from ft_dagster.report.summary import newest_plan

    plan = newest_plan(settings, key)
    return [] if plan is None else list(plan["reasons"])


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def main(call: Callable[[], Any] = app) -> None:
    """Run the command line; a user's mistake is one message and exit code 2, an interrupt 130."""
    try:
        call()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        if "--json" in sys.argv:
            _print_json({"error": error.as_dict(), "message": str(error)})
        Console(stderr=True).print(f"[red]error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
