"""Defines commands about runs and their models: run, try, ui."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, NotRequired, TypedDict

import typer
from rich.console import Console

from ft_dagster.cli.commands import app
from ft_dagster.cli.common import (
    JUDGING,
    RUNNING,
    Json,
    Keys,
    declarations_in,
    keys_of,
    load_settings,
    load_variant,
    out,
    print_json,
    quiet,
    refuse_both,
    show,
    tell,
)
from ft_dagster.cli.prompts import Judge, asked_prompts
from ft_dagster.cli.run_states import LONGEST_SECONDS, POLL_SECONDS, RunState, looked_at, shown_on
from ft_dagster.errors import UserError, UserErrors, all_of, in_one_line
from ft_dagster.exit_codes import FAILED
from ft_dagster.spec import VariantKey

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from ft_dagster.automation.processes.daemon import Daemon
    from ft_dagster.automation.processes.instance import Launched
    from ft_dagster.report.states import VariantStatus
    from ft_dagster.settings import Settings
    from ft_dagster.spec import Declarations


@app.command(rich_help_panel=RUNNING)
def run(
    context: typer.Context,
    variants: Keys = None,
    every: Annotated[bool, typer.Option("--all", help="Every declared variant")] = False,
    detach: Annotated[
        bool, typer.Option(help="Submit the runs and return; a running daemon starts them")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, kept as a tag on the runs")] = "cli",
    rerun: Annotated[bool, typer.Option("--rerun", help="Start a run even if nothing changed")] = False,
    as_json: Json = False,
) -> None:
    """Take variants through the whole graph, in the Dagster instance that the UI shows.

    Unchanged stages are reused. If nothing changed since the variant's newest run, none is started, and that
    run is reported. If a run of the variant is in progress, it is shown first, and the new one follows it.
    With --all a wrong declaration does not stop the others: it is left out and named at the end, and the exit
    code is 1. Ctrl-C cancels the runs that are shown and waits until none of their processes is left. If this
    command is killed or its terminal closed, the runs go on; call it again to follow them, and
    `ft-dagster cancel` to end them.
    """
    from ft_dagster.automation.processes import instance as dagster_instance

    settings = load_settings(context.obj)
    declarations = declarations_in(settings)
    keys, left_out = _to_run(declarations, variants, every=every)
    settings.open_store().check_writable()
    with dagster_instance.open_instance(settings) as instance:
        if detach:
            submitted = list(dagster_instance.launch(instance, settings, keys, reason))
            _say_submitted(submitted, left_out, as_json)
            return
        standing = [] if rerun else _standing(instance, settings, keys)
        changed = [key for key in keys if key not in {run.key for run in standing}]
        started = _run(instance, settings, changed, reason, as_json) if changed else []
        runs = sorted([*standing, *started], key=lambda run: keys.index(run.key))
        _conclude(instance, settings, runs, standing, left_out, as_json)


class _LeftOut(NamedTuple):
    """Is a declaration that is wrong; `variant` is None where its file is no variant's."""

    variant: str | None
    error: UserError

    def to_json(self) -> dict[str, object]:
        said = {"error": self.error.as_dict(), "message": str(self.error)}
        return {"variant": self.variant, "run_id": None, "started": False, **said}


def _to_run(
    declarations: Declarations, variants: list[str] | None, *, every: bool
) -> tuple[list[VariantKey], list[_LeftOut]]:
    """Return the variants to run, and what is left out of all. Raises UserError for one that was named and is
    wrong, and where all are.
    """
    refuse_both(variants, every=every)
    keys = keys_of(declarations, variants, every=every)
    if variants:
        for key in keys:
            declarations.declared(key)
        return keys, []
    wrong = {key: error for key in keys if (error := declarations.wrong(key)) is not None}
    left_out = [_LeftOut(None, error) for error in declarations.misnamed.values()]
    left_out += [_LeftOut(str(key), error) for key, error in wrong.items()]
    if len(wrong) == len(keys):
        raise UserErrors.of([one for each in left_out for one in all_of(each.error)])
    return [key for key in keys if key not in wrong], left_out


def _say_submitted(runs: Sequence[Launched], left_out: Sequence[_LeftOut], as_json: bool) -> None:
    """Exit 1 where something was left out."""
    if as_json:
        submitted = [{"variant": str(run.key), "run_id": run.run_id} for run in runs]
        print_json([*submitted, *(each.to_json() for each in left_out)])
    else:
        for run in runs:
            tell(f"{run.key}: run {run.run_id} is submitted")
        _say_left_out(left_out)
    if left_out:
        raise typer.Exit(FAILED)


def _say_left_out(left_out: Sequence[_LeftOut]) -> None:
    for each in left_out:
        out.print("[red]left out[/]", end=" ")
        tell(in_one_line(f"{each.variant}: {each.error}" if each.variant else str(each.error)))


def _standing(instance: DagsterInstance, settings: Settings, keys: list[VariantKey]) -> list[Launched]:
    """Return the newest run of each variant that needs no other, since nothing changed."""
    from ft_dagster.automation.unchanged import unchanged

    return [run for key in keys if (run := unchanged(instance, settings, key)) is not None]


def _run(
    instance: DagsterInstance, settings: Settings, keys: list[VariantKey], reason: str, as_json: bool
) -> list[Launched]:
    """Launch runs, or follow those that wait, and show them until they end."""
    from ft_dagster.automation.processes import instance as dagster_instance
    from ft_dagster.automation.processes.daemon import Daemon

    with Daemon(instance, settings, runs_follow=True) as daemon:
        runs = _Runs(*_found(instance, settings, keys))
        try:
            new = [key for key in keys if key not in {run.key for run in runs.asked}]
            runs.asked.extend(dagster_instance.launch(instance, settings, new, reason))
            _watch(instance, settings, runs, daemon, as_json)
        except KeyboardInterrupt:
            Console(stderr=True).print("cancelling; waiting until no process of the runs is left")
            dagster_instance.cancel(instance, [*runs.followed, *runs.asked])
            raise
    return runs.asked


class _Runs(NamedTuple):
    """Holds the runs of a command. `asked`: what this command is about; `followed`: runs of the same variants
    that come before them.
    """

    asked: list[Launched]
    followed: list[Launched]


def _found(
    instance: DagsterInstance, settings: Settings, keys: list[VariantKey]
) -> tuple[list[Launched], list[Launched]]:
    """Runs of the variants that were submitted before: one that waits will read today's declaration when it
    starts, so it is as good as a new one; one that has started may have read another.
    """
    from dagster import DagsterRunStatus

    from ft_dagster.automation.processes.instance import submitted

    queued, started = [DagsterRunStatus.QUEUED], [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED]
    waiting = [runs[0] for key in keys if (runs := submitted(instance, settings, key, queued))]
    followed = [run for key in keys for run in submitted(instance, settings, key, started)]
    for run in [*followed, *waiting]:
        Console(stderr=True).print(f"{run.key}: run {run.run_id[:8]} was submitted before; following it")
    return waiting, followed


@app.command("try", rich_help_panel=JUDGING)
def try_(
    context: typer.Context,
    variants: Keys = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Ask this; may be repeated")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file of variant: [prompt, ...]; asks all of them. {prompt, expected} in place of a "
            "prompt has its answers marked"
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096)] = 64,
    as_json: Json = False,
) -> None:
    """Talk to a variant's model and to its base. Without a prompt it asks you for one.

    Prompts are rendered as the rows were in training: as a chat turn after the declared system message, or as
    plain text where the rows were plain. A prompt in a file may say what its answer must contain
    (`expected`): then ✓ or ✗ stands before each answer. A label, JSON or a query is marked by the rule of the
    evaluation (`evaluation.kind`); any other answer must contain each expected text, word for word. An answer
    without a mark was not checked.
    """
    from ft_dagster.data.rendering.chat_form import options_of
    from ft_dagster.evaluation.answers import PromptRequest, answer
    from ft_dagster.report.answers import answers_table, right_answers
    from ft_dagster.spec.load import read_yaml
    from ft_dagster.versions.newest_model import newest_model

    quiet()
    settings = load_settings(context.obj)
    asked = asked_prompts(settings, variants, prompt, read_yaml(prompts) if prompts else {}, prompts)
    questions, judges = [], []
    for key, given in asked.items():
        model = newest_model(settings, key)
        declared = load_variant(settings, key)
        system = next((source.system for source in declared.spec.data.sources if source.system), None)
        texts = [each.text for each in given]
        options = options_of(declared.spec.data)
        asks = PromptRequest(model.base, model.tuned, texts, model.chat, system, options)
        questions.append(asks)
        judges.append(Judge(settings, declared, given, prompts))
    printed: list[dict[str, object]] = []
    counts: list[str] = []
    written = answer(questions, max_new_tokens=max_new_tokens)
    for key, judge, answers in zip(asked, judges, written, strict=True):
        rows = [judge.row(each, pair) for each, pair in zip(asked[key], answers, strict=True)]
        printed.append({"variant": str(key), "answers": rows})
        if not as_json:
            out.print(answers_table(str(key), rows))
            if (said := right_answers(rows)) is not None:
                counts.append(f"{key}: {said}")
    for line in counts:
        tell(line)
    if as_json:
        print_json(printed)


@app.command(rich_help_panel=RUNNING)
def ui(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
) -> None:
    """Serve the fleet page and Dagster's UI, with the daemon, until Ctrl-C. The address is printed.

    The fleet page shows each variant's state, what runs now, what waits for approval, costs and budgets; its
    rows lead to the pages of a variant. Submitted runs go on after this command ends, and the daemon with
    them.
    """
    from ft_dagster.automation.processes.daemon import Daemon, own_daemon
    from ft_dagster.automation.processes.instance import open_instance

    settings = load_settings(context.obj)
    with (
        _bound(host, port) as bound,
        open_instance(settings) as instance,
        Daemon(instance, settings) as daemon,
        _webserver(host, bound) as webserver,
    ):
        try:
            while webserver.poll() is None:
                daemon.ensure()
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            Console(stderr=True).print("closing; runs that were submitted go on")
    if own_daemon(settings) is not None:
        Console(stderr=True).print("a daemon is left for them, and ends with the last")
    if webserver.returncode:
        raise typer.Exit(webserver.returncode)


def _bound(host: str, port: int) -> socket.socket:
    """Take an address, on which the webserver will listen. Raises UserError where that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        return bound
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        problem = (
            "another program listens there" if taken else f"cannot listen there: {error.strerror or error}"
        )
        fix = f"Give another, as --port {port % 65_535 + 1}" if taken else "Give another --host or --port"
        raise UserError(problem, field="--port", value=f"{host}:{port}", fix=fix) from None


@contextmanager
def _webserver(host: str, bound: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Run the webserver; it ends when the pipe to it is closed, here or by the end of this process."""
    program = [sys.executable, "-P", "-m", "ft_dagster.automation.processes.webserver_program", host]
    number = bound.fileno()
    process = subprocess.Popen([*program, str(number)], stdin=subprocess.PIPE, pass_fds=(number,))
    bound.close()  # the program's alone
    try:
        yield process
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()


def _watch(instance: DagsterInstance, settings: Settings, runs: _Runs, daemon: Daemon, quiet: bool) -> None:
    """Show the runs until all that were asked for have ended, and Dagster's further tries of killed ones.

    Each run is replaced by its newest try. Looking takes a thirtieth of a core at most, whose seconds are
    the runs'; one that has ended is not looked at again.
    """
    from ft_dagster.automation.processes.instance import newest_try, unfinished

    over: dict[str, RunState] = {}
    with shown_on(Console(stderr=True) if quiet else out, lines=quiet) as show:
        while True:
            began = time.process_time()
            for some in runs:
                some[:] = [run if run.run_id in over else newest_try(instance, run) for run in some]
            every = [*runs.followed, *runs.asked]
            going = {r.run_id for r in unfinished(instance, [r for r in every if r.run_id not in over])}
            looked = looked_at(instance, settings, [run for run in every if run.run_id not in over])
            states = {run.run_id: over.get(run.run_id) or looked[run.run_id] for run in every}
            over = {run_id: state for run_id, state in states.items() if run_id not in going}
            show(list(states.values()))
            if all(run.run_id in over for run in runs.asked):
                return
            daemon.ensure(runs.asked)
            spent = time.process_time() - began
            time.sleep(min(max(POLL_SECONDS, 29 * spent), LONGEST_SECONDS))


def _conclude(
    instance: DagsterInstance,
    settings: Settings,
    runs: list[Launched],
    standing: list[Launched],
    left_out: list[_LeftOut],
    as_json: bool,
) -> None:
    """Print what came out; exit 1 if a run did not succeed, or something was left out. `standing`: those that
    needed no new run.
    """
    from ft_dagster.report.figures import release_table
    from ft_dagster.versions.summary import variant_row

    store = settings.open_store()
    rows = [variant_row(store, run.key) for run in runs]
    ended = [_ended(instance, run, run not in standing) for run in runs]
    came = [_came_of(settings, run.key, end.get("failure")) for run, end in zip(runs, ended, strict=True)]
    if as_json:
        ran = [{**row.to_json(), **end, **one} for row, end, one in zip(rows, ended, came, strict=True)]
        print_json({"variants": [*ran, *(each.to_json() for each in left_out)]})
    else:
        show(release_table(rows))
        for row, end, one in zip(rows, ended, came, strict=True):
            if "failure" in end:
                out.print(f"[red]{row.variant} {end['run_status'].lower()}[/]", end=": ")
                tell(end["failure"])
            elif not end["started"]:
                since = f"nothing changed since run {end['run_id'][:8]}, none was started"
                out.print(f"{row.variant}: {since} (--rerun starts one)", highlight=False, soft_wrap=True)
            elif end["reused"]:
                out.print(f"{row.variant}: nothing changed, every artifact was reused")
            tell(f"{row.variant}: {one['result'] or 'not judged yet'}")
            tell(f"Next for {row.variant}: {one['next_step']}")
        _say_left_out(left_out)
    if left_out or any("failure" in end for end in ended):
        raise typer.Exit(FAILED)


def _came_of(settings: Settings, key: VariantKey, failure: str | None) -> dict[str, str]:
    """Return what came of a run's variant in a line, and what a person does next; `failure`: of the run."""
    from ft_dagster.report.sentences.next_step import next_of_state, next_step
    from ft_dagster.report.sentences.result import result_sentence
    from ft_dagster.versions.results import newest_result

    result = newest_result(settings, key)
    known = "" if result is None else next_step(result)
    refused = result is not None and result.is_refused_by(failure)
    state: VariantStatus = "fresh" if failure is None else "failing"
    return {
        "result": "" if result is None else result_sentence(result),
        "next_step": next_of_state(str(key), state, known, refused=refused, failure=failure or ""),
    }


class _Ended(TypedDict):
    """Says how a run came out; `failure` is why it did not succeed."""

    run_id: str
    run_status: str
    reused: bool
    started: bool
    failure: NotRequired[str]


def _ended(instance: DagsterInstance, run: Launched, started: bool) -> _Ended:
    """Say how a run came out. `started`: for this command; else it stands for one that was not needed."""
    from ft_dagster.automation.processes.instance import failure_of, reused_everything, status_of

    state = status_of(instance, run).value
    reused = not started or reused_everything(instance, run.run_id)
    ended: _Ended = {"run_id": run.run_id, "run_status": state, "reused": reused, "started": started}
    if state != "SUCCESS":
        ended["failure"] = failure_of(instance, run.run_id)
    return ended
