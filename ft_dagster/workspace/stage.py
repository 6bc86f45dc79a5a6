"""Defines a stage: one step from a declaration to a release. Each file beside this one defines one.

`inputs(view)` asks for what the stage is made from: artifacts of the stages that it `reads`, the `fields` of
the declaration that it lists, facts of the host. It may branch on them, and returns one frozen dataclass (see
`keyed_inputs.py`). `build(inputs, context, attempt)` makes the artifact from that object alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ft_dagster.stage_entries import StageEntry

if TYPE_CHECKING:
    from ft_dagster.store import Artifact, Attempt
    from ft_dagster.workspace.build_context import BuildContext
    from ft_dagster.workspace.input_view import View
    from ft_dagster.workspace.workspace import Workspace

I = TypeVar("I")  # noqa: E741  # the dataclass of a stage's inputs
Owner = Literal["variant", "shared"]


@dataclass(frozen=True)
class Check:
    """Holds what a stage says of its own artifact. One that does not pass stops all that comes after it."""

    name: str
    passed: bool
    sentence: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """Describes a step after the stages, which makes no artifact of its own. `checks`: see `Stage`."""

    entry: StageEntry
    reads: tuple[StageEntry, ...]
    checks: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.entry.name


@dataclass(frozen=True)
class Stage(Generic[I]):
    """Describes a stage. `asks`: the questions of `Past` that `inputs` and `build` put. `checks`: name ->
    description of each check that `judge` gives.

    `refuse`: raises UserError before anything is looked for or made, `refuse_new` where what would be made
    does not stand yet. `stands`: whether the newest artifact stands though these parts of its key are
    others, where they only decide whether it may be made, and shape none of its bytes. `owner`: whose part
    of the store takes the artifact. `seed`: what the manifest says of it. `programs`: modules of this package
    that `build` runs.
    """

    entry: StageEntry
    reads: tuple[StageEntry, ...]
    fields: tuple[str, ...]
    inputs: Callable[[View], I]
    build: Callable[[I, BuildContext, Attempt], Mapping[str, object]]
    asks: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)
    judge: Callable[[Workspace, Artifact], Sequence[Check]] = lambda workspace, artifact: ()
    refuse: Callable[[Workspace], None] = lambda workspace: None
    refuse_new: Callable[[Workspace], None] = lambda workspace: None
    after: Callable[[Workspace, Artifact], None] = lambda workspace, artifact: None
    stands: Callable[[Artifact, Collection[str]], bool] | None = None
    owner: Callable[[I], Owner] = lambda inputs: "variant"
    seed: Callable[[I], int | None] = lambda inputs: None
    programs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.entry.name
