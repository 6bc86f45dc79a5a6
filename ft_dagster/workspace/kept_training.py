"""Keeps of a training what outlives its host: the claim to train, and its checkpoints in a remote store.

The run goes where its devices are, and there everything is local; a run that begins anew on another host
goes on from the store.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ft_dagster.host_settings import RAY_JOB
from ft_dagster.launch.launcher import OUTPUT, RESULT_FILE, RUN_FILE
from ft_dagster.lineage.idle_runs import idle_runs, remove_run
from ft_dagster.lineage.retention import Rules
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import Place
from ft_dagster.store.checkpoint_mirror import CheckpointMirror, Mirrored
from ft_dagster.store.make import work_id
from ft_dagster.store.training_claim import Holder, TrainingClaim, claimed
from ft_dagster.training.checkpoints import MANIFEST, unusable
from ft_dagster.training.contract import CHECKPOINTS, TrainingRun

if TYPE_CHECKING:
    from ft_dagster.workspace.workspace import Workspace

EVIDENCE = "evidence"  # logs of a training, which one that goes on reads too


@contextmanager
def claimed_training(workspace: Workspace, place: Place) -> Iterator[TrainingClaim]:
    """Hold the claim to train under a key, once no other run does."""
    run = workspace.run
    holder = Holder(run.id, work_id(workspace.settings.work_folder))
    with claimed(workspace.store, place.path, holder, has_ended=run.has_ended, say=run.say) as claim:
        yield claim


def fetch_checkpoints(workspace: Workspace, run_dir: Path, left_at: str, asked: BaseModel) -> None:
    """Have in a training's folder what another host left of it in the store, where that is further."""
    if workspace.mirrors_checkpoints and not _is_sharded(asked):
        _mirror(workspace, run_dir, left_at).fetch()


def clear_scratch(settings: Settings, key: VariantKey) -> None:
    """Remove from the disk of a node what runs of other variants left there and went on with elsewhere, or
    never, after `retention.days`: nobody runs `ft-dagster store gc` on a node.
    """
    if RAY_JOB not in os.environ:
        return
    rules = Rules(settings.retention.of, time.time())
    for left in idle_runs(settings.work_folder, {str(key)}, lambda _: False, rules):
        with suppress(OSError):
            remove_run(left)


@contextmanager
def kept_training(
    workspace: Workspace, run_dir: Path, left_at: str, claim: TrainingClaim | None, asked: BaseModel
) -> Iterator[Callable[[], None]]:
    """Send what becomes whole of a training of this host to the store, until this ends. Yields what to call
    now and then: it passes on what is to be said, and raises UserError once another run took over.
    """
    messages: SimpleQueue[str] = SimpleQueue()

    def attend() -> None:
        while True:
            try:
                workspace.run.say(messages.get_nowait())
            except Empty:
                break
        if claim is not None:
            claim.refuse_lost()

    try:
        if not workspace.mirrors_checkpoints:
            yield attend
        elif _is_sharded(asked):
            messages.put(
                f"no checkpoint is kept in {workspace.store.url}: those of ZeRO are pickles, which are not "
                "loaded out of a store. On another host it begins anew"
            )
            yield attend
        else:
            mirror = _mirror(workspace, run_dir, left_at)
            mirror.say = messages.put
            if claim is not None:
                mirror.holds = claim.holds
            with mirror.running():
                yield attend
    finally:
        while not messages.empty():
            workspace.run.say(messages.get_nowait())


def _is_sharded(asked: BaseModel) -> bool:
    """Say whether a training's checkpoints are shards of ZeRO, which are pickles: who may write to the store
    could have them run code.
    """
    return isinstance(asked, TrainingRun) and any(m.plan.training.deepspeed.stage for m in asked.members)


def mirrored(left_at: str) -> Mirrored:
    """Return which files of a training's folder are kept, and where in the store."""
    return Mirrored(left_at, f"{OUTPUT}/{CHECKPOINTS}", MANIFEST, (f"{OUTPUT}/{EVIDENCE}", RUN_FILE))


def _mirror(workspace: Workspace, run_dir: Path, left_at: str) -> CheckpointMirror:
    """Return the mirror of a training's folder, which knows what it fetched."""
    if run_dir not in workspace.mirrors:
        workspace.mirrors[run_dir] = CheckpointMirror(
            workspace.store, mirrored(left_at), run_dir, lambda: True, workspace.run.say, unusable
        )
    return workspace.mirrors[run_dir]


def begin_anew(run_dir: Path) -> Path:
    """Return a new folder for a program's output, to which the link RUN_DIR/output leads from now on. Of what
    was begun before it has copies of the logs and of the result, and the checkpoints that are whole: nothing
    is written into those any more. Interrupted, it loses none of them.

    So a program on a node that was lost disturbs no try after it: it finds its folder gone.
    """
    link = run_dir / OUTPUT
    if link.is_symlink():
        newest = link.readlink().name
    else:
        newest = _name()
        with suppress(FileNotFoundError):
            link.rename(run_dir / newest)
    before = sorted(run_dir.glob(f"{OUTPUT}-*"), key=lambda folder: folder.name != newest)
    new = run_dir / _name()
    (new / CHECKPOINTS).mkdir(parents=True)
    with suppress(FileNotFoundError):
        shutil.copy2(run_dir / newest / RESULT_FILE, new)
    for folder in reversed(before):  # the newest last
        with suppress(FileNotFoundError):
            drafts = shutil.ignore_patterns(".*")
            shutil.copytree(folder / EVIDENCE, new / EVIDENCE, ignore=drafts, dirs_exist_ok=True)
    draft = run_dir / f".{new.name}"
    draft.symlink_to(new.name)
    draft.replace(link)
    for whole in [file.parent for folder in before for file in folder.glob(f"{CHECKPOINTS}/*/{MANIFEST}")]:
        with suppress(FileNotFoundError):  # removed just now
            if not (new / CHECKPOINTS / whole.name).exists():
                whole.rename(new / CHECKPOINTS / whole.name)
    for folder in before:
        shutil.rmtree(folder, ignore_errors=True)
    return new


def _name() -> str:
    return f"{OUTPUT}-{uuid.uuid4().hex[:8]}"
