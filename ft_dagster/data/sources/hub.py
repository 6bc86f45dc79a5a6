"""Pin a hub repository to a commit, so that what was read can be named and read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ft_dagster.data.sources.locations import COMMIT
from ft_dagster.errors import UserError
from ft_dagster.extras import of_train
from ft_dagster.provenance.digest import sha256_json

Kind = Literal["dataset", "model"]
SEEN = "ft_dagster-default-branch"  # in the hub's cache: a file for each commit that was found there


def pin_revision(
    repo: str,
    revision: str | None,
    kind: Kind,
    *,
    file: object = None,
    field: str | None = None,
    bound: bool = False,
) -> str:
    """Return the commit (40 hex digits) of a revision of a hub repository; asks the hub unless it is one
    already.

    `bound`: it has to be one of the default branch, for anybody may propose another (refs/pr/7) to a
    repository. Raises UserError where it is not, and where the repository or the hub cannot be found.
    """
    if revision and COMMIT.fullmatch(revision):
        commit = revision
    else:
        with of_train():
            from huggingface_hub import HfApi

        with hub_errors(repo, kind, file=file, field=field):
            commit = str(HfApi().repo_info(repo, repo_type=kind, revision=revision).sha)
    if bound and not _is_of_default_branch(repo, commit, kind, file=file, field=field):
        raise UserError(
            f"the commit {commit[:12]} is not of the default branch of {repo}, and anybody may propose one",
            file=file,
            field=None if field is None else f"{field.rpartition('.')[0]}.revision",
            value=revision,
            fix="Name a commit of the default branch, or leave the revision out",
        )
    return commit


def _is_of_default_branch(repo: str, commit: str, kind: Kind, *, file: object, field: str | None) -> bool:
    """Say whether a commit is of the default branch; the hub is asked once for each commit that is."""
    with of_train():
        from huggingface_hub import HfApi, constants

    seen = Path(constants.HF_HUB_CACHE) / SEEN / sha256_json([kind, repo, commit])
    if seen.exists():
        return True
    with hub_errors(repo, kind, file=file, field=field):
        found = any(each.commit_id == commit for each in HfApi().list_repo_commits(repo, repo_type=kind))
    with suppress(OSError):
        if found:
            seen.parent.mkdir(parents=True, exist_ok=True)
            seen.touch()
    return found


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
