"""What every stage's asset shares: the partitions, the variant's desk in a run, errors as failures."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg

from ft_dagster.errors import UserError
from ft_dagster.launch.leases import Ask
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.stage_versions import STAGE_VERSIONS
from ft_dagster.resources.artifacts import ArtifactStore
from ft_dagster.resources.gpus import Gpus
from ft_dagster.resources.launchers import LocalLauncher
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Retries
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.store import Artifact, Attempt, Store, read_head, unreachable, write_head
from ft_dagster.store.stage import Recipe, make
from ft_dagster.training.checkpoints import newest_good

PARTITIONS = "ft_dagster_variant"  # shared by every code location of an instance
VARIANTS = dg.DynamicPartitionsDefinition(name=PARTITIONS)
SHARED = "shared"
EXPERIMENT, OVERRIDES, RIVALS = "ft/experiment", "ft/overrides", "ft/rivals"  # run tags
FAILURE = "failure"  # metadata of a failure: what happened, what was kept, what to do
STOPPED = "stopped_in"  # metadata of a failure: the run folder of a training that gave up against its rivals
Metadata = Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """One variant's desk in one run: its declaration, the store, the artifacts upstream."""

    context: dg.AssetExecutionContext
    key: VariantKey
    tenants: Tenants
    artifacts: ArtifactStore
    launcher: LocalLauncher
    gpus: Gpus

    @property
    def prefix(self) -> str:
        """The variant's own part of the store."""
        return f"tenants/{self.key.tenant}/{self.key.variant}"

    @property
    def heads(self) -> str:
        """Whose heads this run reads and writes: the variant's, or those of a run of an experiment.

        Artifacts lie under `prefix` by their key either way, so an experiment shares what is equal.
        """
        experiment = self._tag(EXPERIMENT)
        return f"{self.prefix}/experiments/{experiment}" if experiment else self.prefix

    @property
    def overrides(self) -> dict[str, Any]:
        """What an experiment changes in the declaration: dotted field -> value."""
        return dict(json.loads(self._tag(OVERRIDES) or "{}")) if self._tag(EXPERIMENT) else {}

    @property
    def rivals(self) -> dict[int, float]:
        """Evaluation -> validation loss above which a training of an experiment gives up."""
        return {int(number): loss for number, loss in json.loads(self._tag(RIVALS) or "{}").items()}

    def _tag(self, name: str) -> str | None:
        return self.context.run.tags.get(name)

    @cached_property
    def store(self) -> Store:
        return self.artifacts.open()

    @property
    def project(self) -> Path:
        return self.tenants.folder

    @property
    def declared_in(self) -> Path:
        """The variant's file, for errors to name."""
        return self.project / "tenants" / self.key.tenant / f"{self.key.variant}.yaml"

    @property
    def cache(self) -> Path:
        return self.artifacts.cache

    @cached_property
    def frozen(self) -> dict[str, Any]:
        """declaration.json as the declaration stage froze it."""
        folder = self.folder(self.upstream("declaration"))
        content: dict[str, Any] = json.loads((folder / "payload" / "declaration.json").read_text("utf-8"))
        return content

    @cached_property
    def spec(self) -> VariantSpec:
        return VariantSpec.model_validate(self.frozen["spec"])

    def upstream(self, stage: str) -> Artifact:
        """The head of a stage: what this run just made, else the newest before it."""
        artifact = read_head(self.store, self.heads, stage)
        if artifact is None:
            raise UserError(
                f"{self.key} has no {stage} yet", fix=f"Materialize {stage} of this partition first"
            )
        return artifact

    def folder(self, artifact: Artifact) -> Path:
        """The artifact's `payload/` and `evidence/` on this machine."""
        return artifact.folder(self.store, self.cache)

    def payload(self, artifact: Artifact) -> Path:
        return self.folder(artifact) / "payload"

    def make(
        self,
        stage: str,
        build: Callable[[Attempt], dict[str, Any]],
        *,
        inputs: dict[str, str] | None = None,
        spec: dict[str, Any] | None = None,
        prefix: str | None = None,
        seed: int | None = None,
    ) -> Artifact:
        """The stage's artifact, found or built, under the variant's own prefix or a shared one."""
        recipe = Recipe(
            stage,
            prefix or self.prefix,
            inputs or {},
            spec or {},
            str(self.key) if prefix is None else None,
            seed,
        )
        artifact = make(self.store, self.artifacts.work, recipe, build)
        how = "reused, no work done" if artifact.reused else "made"
        self.context.log.info(f"{stage} {artifact.digest[:12]} {how}")
        return artifact

    def produce(
        self,
        program: str,
        attempt: Attempt,
        run: Callable[[Path], dict[str, Any]],
        *,
        leased: bool = True,
        into: Path | None = None,
    ) -> dict[str, Any]:
        """Run a program of this project and take over what it wrote; returns its figures.

        `run(output)` gives the content of run.json. The run folder is named by the key, so a second
        try finds the checkpoints of the first; it is removed when the program has succeeded. `into`: a folder
        that takes its payload and evidence instead of the attempt's own.
        """
        name = f"{attempt.place.stage}-{attempt.place.key[:16]}"
        run_dir = self.artifacts.work / "runs" / str(self.key) / name
        output = run_dir / "output"
        output.mkdir(parents=True, exist_ok=True)
        (run_dir / "run.json").write_text(json.dumps(run(output), indent=1, sort_keys=True), "utf-8")
        ask = self._ask(program) if leased else None
        training = program == "training"
        try:
            result = self.launcher.run(self.context, program, run_dir, ask, reports=training)
        except ProgramFailed as failure:
            failure.kept = _kept(output) if training else None
            raise
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            if training:
                self.context.log.info(f"Cancelled. Kept: {_kept(output)}. Run it again: it goes on from there")
            raise
        if result.get("status") == "stopped":
            raise dg.Failure(
                "stopped early: its validation loss was above the median of the runs before it",
                metadata={STOPPED: str(run_dir)}, allow_retries=False,
            )  # fmt: skip
        for part in ("payload", "evidence"):
            target = (into or attempt.folder) / part
            target.mkdir(parents=True, exist_ok=True)
            for file in (output / part).glob("*"):
                shutil.move(file, target / file.name)
        shutil.rmtree(run_dir)
        figures: dict[str, Any] = result["figures"]
        return figures

    def _ask(self, program: str) -> Ask:
        run_id = self.context.run_id
        reason = f"{program} for run {run_id[:8]}"
        return self.gpus.leases().ask_of(self.key, self.spec.resources, reason, run_id)

    def refuse_what_cannot_be_lent(self) -> None:
        """Raises UserError where this host can never lend what the declaration asks for."""
        try:
            self.gpus.leases().candidates(self._ask("training"))
        except UserError as error:
            error.file = error.file or str(self.declared_in)
            raise

    @property
    def device(self) -> str:
        """torch's name for what this host computes on."""
        return "cuda" if self.gpus.inventory().kind == "gpu" else "cpu"

    def report(
        self, artifact: Artifact, metadata: Metadata, checks: Sequence[dg.AssetCheckResult] = ()
    ) -> dg.MaterializeResult[Any]:
        """Point the head at the artifact and show it in Dagster."""
        write_head(self.store, self.heads, artifact, self.context.run_id)
        common = {
            "digest": dg.MetadataValue.text(artifact.digest),
            "reused": dg.MetadataValue.bool(artifact.reused),
            "size_bytes": dg.MetadataValue.int(artifact.size),
            "made_from": dg.MetadataValue.md(_digest_list(artifact.inputs)),
            "owners": dg.MetadataValue.text(", ".join(self.spec.owners)),
            "dagster/uri": dg.MetadataValue.text(self.store.uri(artifact.path)),
        }
        return dg.MaterializeResult(
            metadata={**metadata, **common},
            data_version=dg.DataVersion(artifact.digest),
            check_results=list(checks),
        )


def stage_asset(
    *,
    group: str,
    kinds: set[str],
    deps: Sequence[str] = (),
    checks: Mapping[str, str] | None = None,
) -> Callable[[Callable[[Bench], dg.MaterializeResult[Any]]], dg.AssetsDefinition]:
    """Make a stage's function over a Bench an asset partitioned by variant.

    `checks` maps the names of its blocking, partitioned checks to their descriptions.
    """

    def wrap(function: Callable[[Bench], dg.MaterializeResult[Any]]) -> dg.AssetsDefinition:
        name = function.__name__
        specs = _check_specs(name, checks or {})

        @dg.asset(
            name=name,
            description=function.__doc__,
            partitions_def=VARIANTS,
            deps=list(deps),
            group_name=group,
            kinds=kinds,
            check_specs=specs,
            code_version=str(STAGE_VERSIONS[name]),
        )
        def run(
            context: dg.AssetExecutionContext,
            tenants: Tenants,
            artifacts: ArtifactStore,
            launcher: LocalLauncher,
            gpus: Gpus,
        ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster reads it as a list with the parameter
            with failures(context, artifacts.retries):
                key = _only_key(context)
                bench = Bench(context, key, tenants, artifacts, launcher, gpus)
                if group == "release" and bench.heads != bench.prefix:
                    raise UserError(
                        "an experiment is neither exported nor released",
                        field=EXPERIMENT, value=context.run.tags[EXPERIMENT],
                        fix="Declare its winner, then run the variant",
                    )  # fmt: skip
                return function(bench)

        return run

    return wrap


def _only_key(context: dg.AssetExecutionContext) -> VariantKey:
    """The run's variant. Raises UserError for a single run over several partitions."""
    start, end = context.partition_key_range
    if start != end:
        raise UserError(
            "a run is for one variant", value=f"{start}...{end}", fix="Launch one run per partition instead"
        )
    return VariantKey.parse(start)


def _check_specs(asset: str, checks: Mapping[str, str]) -> list[dg.AssetCheckSpec]:
    """Partitioned, or one tenant's pass would hide another's failure; Dagster calls that a preview."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(name, asset=asset, description=text, blocking=True, partitions_def=VARIANTS)
            for name, text in checks.items()
        ]


@contextmanager
def failures(
    context: dg.AssetExecutionContext | None = None, retries: Retries | None = None
) -> Iterator[None]:
    """Errors as Dagster's failures, each with its one line; what a retry can mend is tried again.

    A RetryPolicy would also retry a cancel (dagster#15026), so each retry is asked for here.
    """
    try:
        yield
    except UserError as error:
        raise _failure(str(error)) from None
    except ProgramFailed as error:
        if not error.mendable or context is None or retries is None:
            raise _failure(str(error)) from None
        _try_again(context, retries, str(error))
    except Exception as error:
        if context is None or retries is None or not unreachable(error):
            raise
        said = f"the storage could not be reached ({type(error).__name__}: {error})"
        _try_again(context, retries, f"{said}. Kept: every artifact already made. Run it again")


def _try_again(context: dg.AssetExecutionContext, retries: Retries, line: str) -> NoReturn:
    """Let Dagster run the step again after a while, or fail where that was done often enough."""
    tried = context.retry_number
    if tried >= retries.attempts:
        raise _failure(f"{line} (given up after {tried + 1} tries)" if tried else line) from None
    wait = retries.wait(tried)
    context.log.warning(f"{line}. Tried again in {wait:g} s ({tried + 1} of {retries.attempts})")
    raise dg.RetryRequested(max_retries=retries.attempts, seconds_to_wait=wait) from _failure(line)


def _failure(line: str) -> dg.Failure:
    return dg.Failure(line, metadata={FAILURE: dg.MetadataValue.text(line)}, allow_retries=False)


def check(name: str, passed: bool, description: str, **metadata: Any) -> dg.AssetCheckResult:
    """A result of one of the asset's own checks, with its figures."""
    return dg.AssetCheckResult(check_name=name, passed=passed, description=description, metadata=metadata)


def digest_of(value: Any) -> str:
    """The digest by which a plain value enters a key."""
    return sha256_json(value)


def _kept(output: Path) -> str:
    """What a training that ended early left to go on from."""
    folder = output / "checkpoints"
    newest = newest_good(folder)
    if newest is None:
        return f"nothing, for no checkpoint verifies in {folder}"
    return f"the checkpoint of step {newest.step}, which verifies, in {newest.folder}"


def _digest_list(inputs: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: `{digest}`" for name, digest in inputs.items()) or "-"
