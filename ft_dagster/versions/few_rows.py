"""Foresees the warnings of a plan from a sample of the rows, for `check`: no dry run, and nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ft_dagster.data.rendering.known_tokenizer import KnownTokenizer
from ft_dagster.data.rows.rows_read import KEPT, READ, SourceLook
from ft_dagster.errors import UserError
from ft_dagster.gate.memorization.membership_rules import few_held_out
from ft_dagster.gate.power import too_few_rows
from ft_dagster.methods import METHODS
from ft_dagster.model_files.weights import measure_weights, weight_files
from ft_dagster.planning.context import facts_of, hardware_of
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods.resolved import resolve, with_method
from ft_dagster.planning.methods.training_settings import few_steps, steps_of
from ft_dagster.spec import VariantSpec
from ft_dagster.training.batches.apart import leak_where_packed
from ft_dagster.versions.sample import sample
from ft_dagster.workspace.workspace import Workspace


def foreseen(workspace: Workspace, base: Path, looks: Sequence[SourceLook]) -> tuple[str, ...]:
    """Return the warnings, one line each, of the declaration as it is now. `base`: its folder. `looks`: at
    each source. Raises UserError for rows that a run would refuse.
    """
    declared = workspace.declared()
    roots = workspace.roots
    tokenizer = KnownTokenizer(base, workspace.cache)
    data = sample(declared, workspace.project, tokenizer, roots, first=KEPT, most=READ, looks=looks)
    if data.more:
        return ()  # of so many rows neither steps nor test rows are few
    spec, devices = declared.spec, workspace.trains_on(declared.spec.resources)
    hardware = hardware_of(spec, devices, workspace.project)
    parameters, stored, _ = measure_weights(base, weight_files(base))
    facts = facts_of(data.counts, parameters, stored, base, hardware, leak=None, cache=workspace.cache)
    few = _few_steps(spec, facts)
    if few is not None:  # packed; as many or more where examples cannot be
        few = _few_steps(spec, replace(facts, leak=leak_where_packed(spec, base, workspace.cache)))
    basis = "" if spec.training.max_steps else f" ({data.basis})"
    rows = (*too_few_rows(spec, data.test_rows), *few_held_out(spec, data.test_rows))
    return (*([] if few is None else [few + basis]), *rows)


def _few_steps(spec: VariantSpec, facts: Facts) -> str | None:
    """Warn of few steps by the declared method, else by the one that would take most. Raises UserError for
    what the declared one cannot have.
    """
    if spec.method.name != "auto":
        training = resolve(spec, facts).training
        return few_steps(training, facts, steps_of(training, facts))
    found = []
    for name, known in METHODS.items():
        with suppress(UserError):  # the plan says which cannot be had, and why
            found += [] if known.trains == "prompt" else [resolve(with_method(spec, name), facts).training]
    most = max(found, key=lambda training: steps_of(training, facts), default=None)
    return None if most is None else few_steps(most, facts, steps_of(most, facts))
