"""Offers fine-tuning as a Dagster Component: a `dg` project adds a project's variants with one defs.yaml."""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import click
import dagster as dg
from dagster.components.component_scaffolding import scaffold_component
from pydantic import BaseModel, Field, ValidationInfo, field_validator

from ft_dagster.assets.partitions import Graph
from ft_dagster.automation.jobs import JOB
from ft_dagster.build import build_defs
from ft_dagster.errors import UserError
from ft_dagster.spec import VariantKey
from ft_dagster.spec.start import StartedProject, new_declaration, start_project

FOLDER = "project"  # of the variants, beside the defs.yaml that a scaffold makes


class ProjectParams(BaseModel):
    """Asks what `dg scaffold defs ft_dagster.FineTuning` needs, as `ft-dagster init` does."""

    base_model: str = Field(description="Local folder, hub id or s3:// prefix")
    data: str = Field(description="The tenant's rows: file, folder, glob, s3:// or hub id")
    variant: str = Field("acme.support", description="tenant.variant")
    question: str = Field("", description="The column that asks; else by its name")
    answer: str = Field("", description="The column that is learned; else by its name")
    text: str = Field("", description="The column of raw text, in place of both")
    key_prefix: str = Field("", description="What the keys of its assets begin with; else the folder's name")

    @field_validator("variant")
    @classmethod
    def _is_a_key(cls, variant: str) -> str:
        try:
            return str(VariantKey.parse(variant))
        except UserError as error:
            raise ValueError(str(error)) from None

    @field_validator("key_prefix")
    @classmethod
    def _is_a_prefix(cls, prefix: str) -> str:
        try:
            Graph.of(prefix or ())
        except UserError as error:
            raise ValueError(str(error)) from None
        return prefix

    @field_validator("base_model", "data")
    @classmethod
    def _from_here(cls, place: str, field: ValidationInfo) -> str:
        """Return a path from the current folder, which must be there."""
        from ft_dagster.data.sources.locations import rows_from
        from ft_dagster.models.base import base_from

        try:
            if field.field_name == "data":
                return rows_from(place, Path.cwd(), "--data")
            return base_from(place, Path.cwd(), "--base-model")
        except UserError as error:
            raise ValueError(str(error)) from None


class ProjectScaffolder(dg.Scaffolder[ProjectParams]):
    """Makes defs.yaml and beside it a project with a first declaration; overwrites nothing."""

    @classmethod
    def get_scaffold_params(cls) -> type[ProjectParams]:
        return ProjectParams

    def scaffold(self, request: dg.ScaffoldRequest[ProjectParams]) -> None:
        params = request.params
        key = VariantKey.parse(params.variant)
        prefix = params.key_prefix or prefix_of(request.target_path)
        try:
            started = _started(request.target_path / FOLDER, key, params)
        except UserError as error:
            with suppress(OSError):  # Dagster made the folder, and takes one that is there for a component
                request.target_path.rmdir()
            raise click.ClickException(str(error)) from None
        scaffold_component(request, {"project": FOLDER, "key_prefix": prefix})
        for message in started.said:
            click.echo(message)
        click.echo(f"Next: dg dev, then dg launch --job {Graph.of(prefix).name(JOB)} --partition {key}")


def _started(folder: Path, key: VariantKey, params: ProjectParams) -> StartedProject:
    """Make a project, its declaration inferred from the rows as `ft-dagster init` does. Raises UserError
    before anything is written.
    """
    from ft_dagster.data.rows.infer import named_fields, rows_of
    from ft_dagster.versions.first_declaration import first_declaration

    new_declaration(folder, key)
    named = (params.question or None, params.answer or None, params.text or None)
    fields = partial(named_fields, question=named[0], answer=named[1], text=named[2])
    rows = rows_of(params.data, Path.cwd(), fields, lambda _: any(named))
    start = first_declaration(folder, str(key), params.base_model, params.data, rows)
    return start_project(folder, key, params.base_model, params.data, start)


def prefix_of(folder: Path) -> str:
    """Return a folder's name as the keys of assets may begin: its ASCII letters and digits, joined by _."""
    return "_".join(re.findall(r"[A-Za-z0-9]+", folder.name)) or FOLDER


@dg.scaffold_with(ProjectScaffolder)
class FineTuning(dg.Component, dg.Model, dg.Resolvable):
    """Adds the variants of one project: assets from declaration to release, their job, sensors and
    resources.
    """

    project: str = Field(description="The project folder: absolute, or from the folder of this defs.yaml")
    key_prefix: str | list[str] = Field(
        [],
        description="What the keys of its assets begin with; each project of a code location has its own",
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        folder = (Path(context.path) / self.project).resolve()
        if not folder.is_dir():
            raise UserError(
                "no such project folder",
                file=context.path / "defs.yaml",
                field="attributes.project",
                value=self.project,
                fix="Write its path from the folder of this file, or make one with `ft-dagster init`",
            )
        return build_defs(folder, key_prefix=self.key_prefix)
