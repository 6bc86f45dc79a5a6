"""Defines the settings of who is told of events: webhooks, files, and MLflow's model registry."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from ft_dagster.settings_part import Part, Tenant


class NotificationTarget(Part):
    """Says where events are told: a webhook or a file of JSON lines, one of them. Nothing is run."""

    webhook: str | None = Field(None, description="An http(s) address that takes a POST of JSON")
    file: str | None = Field(None, description="A file, from the project folder, that lines are added to")
    timeout_seconds: float = Field(5.0, gt=0, le=60, description="Of a webhook, for all of one delivery")
    secret_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with the secret that a webhook's bodies are signed by",
    )

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, address: str | None) -> str | None:
        if address is not None:
            try:
                parts = urlsplit(address)
                known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:
                known = False
            if not known or not address.isascii() or not address.isprintable() or " " in address:
                raise ValueError("not an http:// or https:// address")
            if "@" in parts.netloc:
                raise ValueError("credentials do not belong into an address: name secret_env")
        return address

    @model_validator(mode="after")
    def _is_one_of_them(self) -> NotificationTarget:
        if (self.webhook is None) == (self.file is None):
            raise ValueError("needs a webhook or a file, and not both")
        if self.webhook is None and self.secret_env is not None:
            raise ValueError("secret_env: a file is not signed")
        return self


class NotificationSettings(Part):
    """Says who is told of releases, failed gates and failed runs; a declaration names targets in `notify`."""

    targets: dict[Tenant, NotificationTarget] = Field({}, description="By name")
    ui: str | None = Field(
        None, pattern=r"^https?://\S+$", description="Address of Dagster's UI, for links to runs"
    )


class RegistrySettings(Part):
    """Says where releases are shown besides; the release log stays what counts."""

    mlflow: str | None = Field(
        None, min_length=1, description="Address of an MLflow server, whose model registry shows releases"
    )
    experiment: str = Field(
        "ft_dagster", min_length=1, description="MLflow's, of the runs that hold the files"
    )

    @field_validator("mlflow")
    @classmethod
    def _has_no_credentials(cls, address: str | None) -> str | None:
        if "@" in (address or "").partition("://")[2].partition("/")[0]:
            raise ValueError("credentials do not belong into an address: MLFLOW_TRACKING_USERNAME has them")
        return address
