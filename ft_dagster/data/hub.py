"""Pin a hub repository to a commit, so that what was read can be named and read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ft_dagster.data.locations import COMMIT
from ft_dagster.errors import UserError
from ft_dagster.extras import of_train


def pin_revision(
    repo: str,
    revision: str | None,
    kind: Literal["dataset", "model"],
    *,
    file: object = None,
    field: str | None = None,
) -> str:
    """The commit (40 hex digits) of a revision of a hub repository; asks the hub unless it is one already.

    Raises UserError where the repository or the hub cannot be found.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    with of_train():
        from huggingface_hub import HfApi

    with hub_errors(repo, kind, file=file, field=field):
        return str(HfApi().repo_info(repo, repo_type=kind, revision=revision).sha)


@contextmanager
def hub_errors(repo: str, kind: str, *, file: object = None, field: str | None = None) -> Iterator[None]:
    """Turn a hub that lacks the repository or does not answer, and a name that none has, into a UserError."""
    with of_train():
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # Which HTTP library the client uses changed between its versions; its error is this one's base.
    transport = HfHubHTTPError.__bases__[0]
    fix = "Check the name and HF_TOKEN, or use a local path (a path relative to the project wins)"
    try:
        yield
    except HfHubHTTPError as error:
        refused = error.response is not None and error.response.status_code in (401, 403, 404)
        problem = f"the hub has no such {kind} or revision" if refused else "the hub answers with an error"
        raise UserError(problem, file=file, field=field, value=repo, fix=fix) from None
    except HFValidationError:
        problem = f"no name that a {kind} of the hub can have"
        raise UserError(problem, file=file, field=field, value=repo, fix=fix) from None
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError, transport):
        problem = f"cannot reach the hub for this {kind}"
        raise UserError(problem, file=file, field=field, value=repo, fix=fix) from None
