"""Reads where this installation keeps things: `ft_dagster.yaml` in the project folder, over it the
environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ft_dagster.cluster import Cluster, RaySettings, slurm_launcher, slurm_node
from ft_dagster.errors import UserError, UserErrors
from ft_dagster.files import expanded
from ft_dagster.fleet_settings import FleetSettings
from ft_dagster.host_settings import Host
from ft_dagster.kubernetes_settings import KubernetesSettings
from ft_dagster.notification_settings import NotificationSettings, RegistrySettings
from ft_dagster.provenance.signing import TRUST_FILE, signing_key_file, signing_key_text
from ft_dagster.roots import UPSTREAM, Roots, is_address
from ft_dagster.settings_part import Part, Tenant
from ft_dagster.spec.data import ASSET, ASSET_KEY
from ft_dagster.spec.plain import plain_value
from ft_dagster.spec.policy import POLICY_FILE, Policies, load_policies
from ft_dagster.spec.trust import load_trust
from ft_dagster.spec.validation import mistakes_in
from ft_dagster.spec.variant import ResourcesSpec
from ft_dagster.spec.yaml_files import FIELDS, read_yaml
from ft_dagster.store.blobs import Store
from ft_dagster.store.witness_places import open_witnesses

PROJECT_VARIABLE = "FT_DAGSTER_PROJECT"
FILE = "ft_dagster.yaml"
STORAGE_USD_PER_GB_MONTH = 0.023  # S3 Standard, us-east-1, first 50 TB; read 2026-11-25
CREDENTIALS = {  # options of s3fs that say whose credentials it takes
    "key", "secret", "token", "username", "password", "profile", "anon", "client_kwargs.aws_access_key_id",
    "client_kwargs.aws_secret_access_key", "client_kwargs.aws_session_token",
}  # fmt: skip
SEE_SCHEMA = "See `ft-dagster schema --settings` for what the field takes"


class AllowedSources(Part):
    """Says what declarations may read. Folders count from the project; corpora are the platform's, and
    free.
    """

    allow: tuple[str, ...] = Field(
        (".",),
        description="Folders, address prefixes (s3://bucket/prefix) and upstream assets "
        "(asset://warehouse/tickets) that every tenant may read",
    )
    per_tenant: dict[Tenant, tuple[str, ...]] = Field({}, description="More of them, for one tenant")
    bases: tuple[str, ...] = Field((), description="More of them, for base models alone")
    hub: tuple[str, ...] = Field(("*",), description="Hub repositories, as patterns: org/*")
    functions: tuple[str, ...] = Field(
        (),
        description="Functions that may transform rows: file.py:function (from the project), module:function",
    )

    @model_validator(mode="after")
    def _assets_have_keys(self) -> AllowedSources:
        for place in chain(self.allow, *self.per_tenant.values()):
            if place.startswith(ASSET) and not ASSET_KEY.fullmatch(place.removeprefix(ASSET)):
                raise ValueError(f"{place} is not the key of an asset: write it as asset://warehouse/tickets")
        return self


class EvaluationSettings(Part):
    """Says what an evaluation may run beside lm-eval's own tasks, and what answers its questions."""

    functions: tuple[str, ...] = Field(
        (),
        description="Python files (from the project) and modules whose functions a task YAML may name",
    )
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "transformers",
        description="What writes the answers that are judged; auto: vLLM on a GPU where it is installed and "
        "can, else transformers",
    )
    vllm: Path | None = Field(
        None,
        description="The Python of the environment that vLLM is installed in, from the project; null: the "
        "one that runs the steps",
    )


class StoreProfiles(Part):
    """Names AWS profiles, as the shared credentials file of who runs the steps has them."""

    default: str | None = Field(
        None, min_length=1, description="Of who is not named, and of the platform; null: AWS' own default"
    )
    per_tenant: dict[Tenant, Annotated[str, Field(min_length=1)] | None] = Field(
        {},
        description="By tenant: its runs open the store with it, and its programs have no other; null: AWS' "
        "own default",
    )

    def of(self, tenant: str | None) -> str | None:
        """Return the profile of a tenant; None as `tenant`: of the platform."""
        return self.per_tenant.get(tenant or "", self.default)


class Retries(Part):
    """Limits further tries of a step whose program was killed or preempted, or which could not reach the
    store.
    """

    attempts: int = Field(3, ge=0, le=10, description="Further tries; 0: none")
    wait_seconds: float = Field(
        10, ge=0, le=60, description="Before the first of them; doubled for each further one, at most 60"
    )

    def wait(self, tried_again: int) -> float:
        """Return the seconds before the next try, after `tried_again` of them."""
        return min(60.0, self.wait_seconds * 2**tried_again)


class Retention(Part):
    """Says what of a tenant's part of the store stays, though nothing needs it."""

    releases: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Newest versions kept beside the one in production, the candidate and the one that a "
        "rollback goes back to; null: all",
    )
    days: float = Field(
        7,
        ge=1,
        le=36_500,
        description="Kept for so long: a version since it was last served, all else since it was last used",
    )
    hold: bool = Field(False, description="Legal hold: nothing is removed")
    resume_points: int = Field(
        0,
        ge=0,
        le=100,
        description="States of each training's first pass that are kept with its model, so that a retrain "
        "without an erased record need not begin from the start; a plan says their bytes",
    )


class Retentions(Retention):
    """Says the retention of all tenants, and of what they share."""

    per_tenant: dict[Tenant, Retention] = Field(
        {}, description="By tenant: the same fields, in place of those above"
    )

    def of(self, tenant: str | None) -> Retention:
        """Return what holds for a tenant; None: for what is shared."""
        own = self.per_tenant.get(tenant or "")
        said = {} if own is None else own.model_dump(exclude_unset=True)
        return Retention(**{**self.model_dump(exclude={"per_tenant"}), **said})


class _Environment(EnvSettingsSource):
    """Reads settings of the environment; the project that it may name is asked for by `load_settings`."""

    def __call__(self) -> dict[str, Any]:
        said = {name: value for name, value in super().__call__().items() if name != "project"}
        nothing = {name for name in Settings.model_fields if os.environ.get(_variable(name)) == "null"}
        return {**said, **dict.fromkeys(nothing)}  # which the base leaves to the file


class Settings(BaseSettings):
    """Holds the settings of one project; FT_DAGSTER_STORE, FT_DAGSTER_WORK, FT_DAGSTER_HOST__CPU_SLOTS
    override.
    """

    model_config = SettingsConfigDict(
        env_prefix="FT_DAGSTER_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the environment before the file, field by field."""
        return _Environment(settings_cls), init_settings

    project: Path
    store: str = ".ft_dagster/store"
    store_options: dict[str, Any] = Field({}, description="For the file system: endpoint_url, profile, ...")
    store_profiles: StoreProfiles = StoreProfiles.model_construct()
    work: Path = Field(Path(".ft_dagster/work"), description="Scratch space and caches of this host")
    keys: Path = Field(
        Path(".ft_dagster/keys"), description="Keys of record trees, of this user alone; back them up"
    )
    signing_key: str | None = Field(
        None,
        min_length=1,
        description="The private key by which this process signs what it makes and releases: a PEM file of "
        "this user alone, the URI of a key service, or, in the environment alone, the PEM text; null: it "
        "signs nothing",
    )
    cache_gb: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="What copies from a remote store may take in the work folder, GB of 1e9 bytes; the "
        "longest unused go, and none that a run uses; null: any amount",
    )
    host: Host = Host.model_construct()
    launcher: Literal["local"] = Field("local", description="Programs run where their run is")
    cluster: Cluster = Cluster.model_construct()
    ray: RaySettings | None = Field(
        None, description="What the jobs of runs get on Ray; null: runs are no jobs of Ray"
    )
    kubernetes: KubernetesSettings | None = Field(
        None, description="What the pods of runs get on Kubernetes; null: runs are not pods"
    )
    tenant_runs: int = Field(
        4,
        ge=1,
        le=10_000,
        description="Runs of a tenant in progress at once; read when the Dagster instance is made",
    )
    retries: Retries = Retries.model_construct()
    retention: Retentions = Retentions.model_construct()
    storage_usd_per_gb_month: float | None = Field(
        None,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="What a GB (1e9 bytes) of the store costs a month, for `store du`; null: nothing is said "
        f"of a folder, {STORAGE_USD_PER_GB_MONTH} of another store (S3 Standard, us-east-1)",
    )
    base_training_flops: dict[str, Annotated[float, Field(gt=0, le=1e32, allow_inf_nan=False)]] = Field(
        {},
        description="FLOPs that it took to train a base model, as its maker says, by its reference or by "
        "reference@revision: `audit model` holds what was trained on it against that",
    )
    sources: AllowedSources = AllowedSources.model_construct()
    evaluation: EvaluationSettings = EvaluationSettings.model_construct()
    fleet: FleetSettings = FleetSettings.model_construct()
    notifications: NotificationSettings = NotificationSettings.model_construct()
    registry: RegistrySettings = RegistrySettings.model_construct()

    @field_validator("tenant_runs", mode="before")
    @classmethod
    def _is_of_its_plain_type(cls, value: Any) -> Any:
        return plain_value(value, int)

    @field_validator("launcher", mode="before")
    @classmethod
    def _is_no_launcher_any_more(cls, value: Any) -> Any:
        moved = {
            "k8s": "pod on Kubernetes now: take `launcher` out, keep `kubernetes`, and have the instance "
            "launch runs by RunPodLauncher (docs/deploy.md#kubernetes)",
            "ray": "job on Ray now: take `launcher` out, keep `ray`, and have the instance launch runs by "
            "RunJobLauncher (docs/deploy.md#ray)",
        }
        if value in moved:
            raise ValueError(f"a run is a whole {moved[value]}")
        return value

    @field_validator("store_profiles")
    @classmethod
    def _credentials_are_said_once(cls, profiles: StoreProfiles, info: ValidationInfo) -> StoreProfiles:
        options = info.data.get("store_options", {})
        client = options.get("client_kwargs")
        deeper = [f"client_kwargs.{name}" for name in client] if isinstance(client, Mapping) else []
        given = sorted(CREDENTIALS & {*options, *deeper})
        if given and profiles != StoreProfiles():
            raise ValueError(f"store_options.{given[0]} says by whose credentials already")
        return profiles

    def open_store(self, tenant: str | None = None) -> Store:
        """Open the store as a tenant's runs do; None: as the platform does. Raises UserError for an address
        of no known kind, options that its file system does not take, and a profile that is not there.
        """
        place = self.store if "://" in self.store else self._inside(self.store)
        if place is not self.store and os.path.exists(place) and not os.path.isdir(place):
            raise UserError(
                "not a folder", file=self.project / FILE, field="store", value=self.store, fix="Name another"
            )
        profile = self.store_profiles.of(tenant)
        if profile is None or not place.startswith("s3://"):
            return self.open_store_at(place)
        self._check_profile(profile)
        return self.open_store_at(place, {"profile": profile})

    def _check_profile(self, profile: str) -> None:
        from botocore.session import Session  # of s3fs, and slow to import

        known = Session().available_profiles
        if profile not in known:
            raise UserError(
                "no such AWS profile",
                file=self.project / FILE,
                field="store_profiles",
                value=profile,
                fix=f"Known: {', '.join(known) or 'none'}; add it to ~/.aws/credentials, or to the file that "
                "AWS_SHARED_CREDENTIALS_FILE names",
            )

    def open_store_at(self, place: str, options: Mapping[str, Any] | None = None) -> Store:
        """Open the store of another place, a whole path or an address; `options` over `store_options`. The
        project's own is opened by the platform's profile, unless they say by whose credentials. Raises
        UserError as `open_store`.
        """
        own, given = place.rstrip("/") == self.store.rstrip("/"), dict(options or {})
        trust = load_trust(self.project, self.signing_key)
        profile = self.store_profiles.default
        if own and profile is not None and place.startswith("s3://") and not CREDENTIALS & given.keys():
            self._check_profile(profile)
            given["profile"] = profile
        try:
            given = {**self.store_options, **given}
            limit = None if self.cache_gb is None else self.cache_gb * 1e9
            store = Store(place, given, self.dagster_home, limit, self.cache_folder, trust=trust)
        except (ValueError, TypeError, ImportError) as error:
            fix = "Name a folder or s3://bucket/prefix, and options of that file system"
            raise UserError(
                f"cannot be opened: {error}",
                file=self.project / FILE,
                field="store",
                value=place,
                fix=fix,
            ) from None
        if trust is not None and trust.witnesses:
            open_witnesses(trust, store, self._inside, self.keys_folder, self.dagster_home)
        return store

    @property
    def runs_in_cluster(self) -> bool:
        """Say whether runs themselves go to the nodes that `cluster` describes, as pods or as jobs of Ray."""
        return self.kubernetes is not None or self.ray is not None

    @property
    def engine(self) -> str | None:
        """Return what decides where runs are carried out: Kubernetes, Ray or Slurm; None: this host."""
        if self.runs_in_cluster:
            return "Ray" if self.kubernetes is None else "Kubernetes"
        return None if slurm_launcher(self.dagster_home) is None else "Slurm"

    def nodes(self, resources: ResourcesSpec) -> Cluster | None:
        """Return what describes the nodes that a run which declares `resources` goes to; None where it stays
        on this host, and in a job of Slurm. Raises UserError for what no job of Slurm can have.
        """
        if self.runs_in_cluster:
            return self.cluster
        config = slurm_launcher(self.dagster_home)
        return None if config is None else slurm_node(config, resources)

    @property
    def storage_price(self) -> float | None:
        """Return the dollars a GB (1e9 bytes) and month; None where none is known."""
        if self.storage_usd_per_gb_month is None and "://" in self.store:
            return STORAGE_USD_PER_GB_MONTH
        return self.storage_usd_per_gb_month

    @property
    def vllm_python(self) -> Path:
        """Return the Python that has vLLM, where any has. A link stays one: by it Python finds its
        environment.
        """
        named = self.evaluation.vllm
        return Path(sys.executable) if named is None else self.project / expanded(str(named))

    @property
    def work_folder(self) -> Path:
        return Path(self._inside(str(self.work)))

    @property
    def cache_folder(self) -> Path:
        return self.work_folder / "cache"

    @property
    def keys_folder(self) -> Path:
        return Path(self._inside(str(self.keys)))

    @property
    def dagster_home(self) -> Path:
        """Return DAGSTER_HOME if set, else a folder of the project."""
        given = os.environ.get("DAGSTER_HOME")
        return Path(given) if given else self.own_home

    @property
    def own_home(self) -> Path:
        """Return the project's own folder for an instance, whatever DAGSTER_HOME says: a host's is of others
        too.
        """
        return self.project / ".ft_dagster" / "dagster_home"

    def roots(self, tenant: str) -> Roots:
        """Return what the declarations of a tenant may reach."""
        alone = self.sources.per_tenant.get(tenant, ())
        named = (*self.sources.allow, *alone)
        store = () if is_address(self.store) else (self.store,)
        private = (self.work, self.keys, self.dagster_home, self.own_home, UPSTREAM)
        own = (*map(str, private), FILE, POLICY_FILE, TRUST_FILE, *signing_key_file(self.signing_key))
        return Roots(
            project=Path(self._inside(".")),
            tenant=tenant,
            folders=self._folders(named),
            own=self._folders(alone),
            addresses=tuple(filter(is_address, named)),
            own_addresses=tuple(filter(is_address, alone)),
            bases=self._folders(self.sources.bases),
            base_addresses=tuple(filter(is_address, self.sources.bases)),
            hub=self.sources.hub,
            offload=self._folders(self.host.offload_folders),
            functions=tuple(
                self._inside(name) if name.endswith(".py") else name for name in self.evaluation.functions
            ),
            transforms=self.sources.functions,
            never=self._folders((*store, *own)),
            never_addresses=tuple(filter(is_address, (self.store,))),
        )

    @property
    def upstream_assets(self) -> tuple[str, ...]:
        """Return the keys of the upstream assets (`warehouse/tickets`) that any tenant may read, in order."""
        named = chain(self.sources.allow, *self.sources.per_tenant.values())
        return tuple(sorted({place.removeprefix(ASSET) for place in named if place.startswith(ASSET)}))

    def policies(self) -> Policies:
        """Read what the platform allows its tenants, as policy.yaml says now. Raises UserError."""
        return load_policies(self.project)

    def _folders(self, places: Iterable[str]) -> tuple[Path, ...]:
        return tuple(Path(self._inside(place)) for place in places if not is_address(place))

    def _inside(self, path: str) -> str:
        return os.path.realpath(self.project / expanded(path))


def load_settings(project: Path | str | None = None) -> Settings:
    """Load the settings of `project`, else of $FT_DAGSTER_PROJECT, else of the current folder. Raises
    UserError.
    """
    folder = Path(project or os.environ.get(PROJECT_VARIABLE) or ".").expanduser().resolve()
    file = folder / FILE
    if not (folder / "tenants").is_dir():
        raise UserError(
            "not a project: it has no folder tenants/",
            file=folder,
            fix=f"Make one with `ft-dagster init`, or name it with --project or {PROJECT_VARIABLE}",
        )
    fix = f"{FIELDS}; `ft-dagster schema --settings` lists them"
    content = read_yaml(file, empty=True, fix=fix) if os.path.lexists(file) else {}
    if signing_key_text(str(content.get("signing_key"))):
        fix = "Put it into a file of mode 600 and name that, and sign by a new one from now on"
        problem = "the private key itself: whoever reads this file signs by it"
        raise UserError(problem, file=file, field="signing_key", fix=fix)
    try:
        settings = Settings(project=folder, **{str(k): v for k, v in content.items() if k != "project"})
    except ValidationError as error:
        wrong = mistakes_in(error, Settings, lambda field: _said_in(field) or file, SEE_SCHEMA)
        raise UserErrors.of(wrong) from None
    except SettingsError as error:
        fix = "Give it as JSON, or one field of it as FT_DAGSTER_HOST__CPU_SLOTS=2"
        raise UserError(f"the environment (FT_DAGSTER_...): {error}", fix=fix) from None
    return settings.model_copy(update={"host": settings.host.within(os.environ)})


def _said_in(field: str) -> str | None:
    """Return the variable of the environment that says a field (`host.cpu_slots`), if one does."""
    parts = field.split(".")
    names = (_variable(*parts[:count]) for count in range(len(parts), 0, -1))
    return next((f"the environment, {name}" for name in names if name in os.environ), None)


def _variable(*parts: str) -> str:
    return "FT_DAGSTER_" + "__".join(parts).upper()
