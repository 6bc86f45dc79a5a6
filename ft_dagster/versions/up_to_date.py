"""Whether a variant stands as it is: what its whole chain would come to today is already its newest state.

All that a run looks at is looked at here: declaration and policy, sources, corpora, tasks and base, each
artifact's key, bytes and checks, the verdict, the certificate, the release log. Nothing is made or written.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ft_dagster.errors import UserError
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import RELEASE
from ft_dagster.stages.chain import CHAIN, failed_check
from ft_dagster.stages.general_corpus import corpora_stand
from ft_dagster.stages.release import Released, release
from ft_dagster.workspace.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """`digests`: of the newest artifact of each stage, and of what is released, by the stage's name."""

    digests: dict[str, str]
    released: Released


def standing(settings: Settings, key: VariantKey) -> Standing | None:
    """What stands; None where a run would make, move or release anything.

    Also None where anything goes wrong: it would go wrong in the run, which says it and tries it again.
    """
    try:
        return _standing(Workspace(settings, key, looking=True)) if corpora_stand(settings) else None
    except (UserError, OSError) as error:
        log.info("%s needs a run: %s", key, error)
    except Exception as error:
        log.error("a look at %s failed (%s: %s): a run is started", key, type(error).__name__, error)
    return None


def _standing(workspace: Workspace) -> Standing | None:
    digests = {}
    for stage in CHAIN:
        artifact = workspace.make(stage)
        if failed_check(workspace, stage, artifact) is not None:
            return None
        if not workspace.store.remote:  # there the release alone is read whole
            workspace.verify(artifact)
        digests[stage.name] = artifact.digest
    released = release(workspace)
    return Standing({**digests, RELEASE.name: released.entry.export}, released)
