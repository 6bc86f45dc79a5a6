"""Serves the fleet's pages beside Dagster's own, on the same address: they are read, and change nothing.

Whoever reaches the address reads them, as they do Dagster's. A page of another site cannot: browsers let it
read no other origin, and a name that somebody points at this host is refused (`Host`).
"""

import ipaddress
import socket
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ft_dagster.audit.audit_page import audit_page
from ft_dagster.audit.kept_answers import kept_answer, kept_answers
from ft_dagster.automation.fleet_now import FleetReader
from ft_dagster.errors import UserError
from ft_dagster.fleet.live_page import FleetQuery, fleet_page, variant_page
from ft_dagster.report.pages.live import ROOT, LivePage, as_live_html, menu, policy
from ft_dagster.spec import VariantKey
from ft_dagster.store import outage, unreachable
from ft_dagster.versions.version_report import version_report

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
KEPT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
UNKNOWN_NAME = "This name is not known here: open the page by the address of this host, or localhost\n"


def fleet_routes(reader: Callable[[], FleetReader], host: str) -> list[BaseRoute]:
    """Return the routes. `reader`: made at the first request; `host`: the address that is listened on."""
    named = {"localhost", host, socket.gethostname(), socket.getfqdn()}

    def page(made: Callable[[Request], Response]) -> Callable[[Request], Response]:
        async def answer(request: Request) -> Response:
            if not is_own_name(request.headers.get("host", ""), named):
                return PlainTextResponse(UNKNOWN_NAME, 421, HEADERS)
            try:
                return await run_in_threadpool(made, request)
            except Exception as error:
                if not isinstance(error, UserError) and not unreachable(error):
                    raise
                return _not_to_be_shown(error)

        return answer  # type: ignore[return-value]

    def of_fleet(request: Request) -> Response:
        return _html(fleet_page(reader().now(), FleetQuery.of(request.query_params)))

    def of_audit(request: Request) -> Response:
        now = reader().now()
        return _html(audit_page(now.tool, kept_answers(reader().settings)))

    def answer_kept(request: Request) -> Response:
        content = kept_answer(reader().settings, request.path_params["name"])
        return _no_such("answer") if content is None else _kept(content)

    def of_variant(request: Request) -> Response:
        key = _key(request)
        row = None if key is None else reader().row(key)
        if key is None or row is None:
            return _no_such("variant")
        found, problems = reader().now(), list[str]()
        try:
            past = reader().releases(key)
        except Exception as error:
            if not isinstance(error, UserError) and not unreachable(error):
                raise
            past, problems = [], [str(_in_words(error))] if not found.problems else []
        shown = variant_page(found, row, past, reader().past_runs(key), reader().assets)
        return _html(shown._replace(problems=[*shown.problems, *problems]))

    def report(request: Request) -> Response:
        key = _key(request)
        if key is None or reader().row(key) is None:
            return _no_such("variant")
        return _kept(version_report(reader().settings, key))

    def home(request: Request) -> Response:
        return RedirectResponse(ROOT, headers=HEADERS)

    served = {
        "/": home,
        f"{ROOT}/": home,
        ROOT: of_fleet,
        f"{ROOT}/audit": of_audit,
        f"{ROOT}/audit/{{name}}": answer_kept,
        f"{ROOT}/{{key}}": of_variant,
        f"{ROOT}/{{key}}/report": report,
    }
    return [Route(path, page(made)) for path, made in served.items()]


def _not_to_be_shown(error: Exception) -> Response:
    return _html(LivePage("Not to be shown", "", menu(""), (), [str(_in_words(error))]), 503)


def _in_words(error: Exception) -> UserError:
    return error if isinstance(error, UserError) else outage(error)


def is_own_name(host: str, named: set[str]) -> bool:
    """Say whether a request's `Host` names this host: by an address, or by a name that only it decides on. A
    name that a stranger's DNS points here would make their page one of this origin.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.removeprefix("[").removesuffix("]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in {each.lower() for each in named}
    return True


def _key(request: Request) -> VariantKey | None:
    try:
        return VariantKey.parse(request.path_params["key"])
    except UserError:
        return None


def _html(page: LivePage, status: int = 200) -> Response:
    return HTMLResponse(as_live_html(page), status, {**HEADERS, "Content-Security-Policy": policy()})


def _kept(content: str) -> Response:
    """Answer with a page that was written for a file: it runs no script here."""
    return HTMLResponse(content, headers={**HEADERS, "Content-Security-Policy": KEPT_POLICY})


def _no_such(what: str) -> Response:
    return _html(LivePage(f"No such {what}", "It may be retired, or the address be cut.", menu(""), ()), 404)
