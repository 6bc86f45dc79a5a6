"""What is told to a cluster has no credentials in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_dagster.cluster_refusals import refuse_credentials, refuse_job, refuse_secret_variables
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings

FILE = Path("ft_dagster.yaml")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"key": "sesame"}, "key"),
        ({"client_kwargs": {"aws_secret_access_key": "sesame"}}, "client_kwargs.aws_secret_access_key"),
        ({"token": "sesame"}, "token"),
        ({"passwd": "sesame"}, "passwd"),
        ({"s3_additional_kwargs": {"SSECustomerKey": "sesame"}}, "s3_additional_kwargs.SSECustomerKey"),
        ({"headers": {"Authorization": "Bearer sesame"}}, "headers.Authorization"),
        ({"hosts": [{}, {"secret": "sesame"}]}, "hosts.1.secret"),
        ({"endpoint_url": "https://acme:sesame@minio:9000"}, "endpoint_url"),
        ({"config_kwargs": {"proxies": {"http": "http://:sesame@proxy"}}}, "config_kwargs.proxies.http"),
    ],
)
def test_credentials_are_not_passed_to_a_cluster(options: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError, match="is a credential") as error:
        refuse_credentials(options, FILE)
    assert error.value.field == f"store_options.{field}"
    assert "sesame" not in str(error.value)


def test_what_is_no_credential_is_passed() -> None:
    options = {
        "profile": "acme",
        "endpoint_url": "http://s3:9000/@here",
        "s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/models"},
        "config_kwargs": {"tcp_keepalive": True, "s3": {"addressing_style": "path"}},
    }
    refuse_credentials(options, FILE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_API_KEY", "sesame"), ("HF_TOKEN", "sesame"), ("AWS_ACCESS_KEY_ID", "sesame"),
        ("db_password", "sesame"), ("PGPASSWORD", "sesame"), ("MYSQL_PWD", "sesame"), ("HTTPS_PROXY", "http://acme:sesame@proxy:3128"),
        ("DB_PASS", "sesame"), ("OPENAI_APIKEY", "sesame"), ("GITHUB_PAT", "sesame"),
        ("SSH_PASSPHRASE", "sesame"),
    ],
)  # fmt: skip
def test_secrets_in_the_environment_of_nodes_are_refused(name: str, value: str) -> None:
    with pytest.raises(UserError, match="is a secret") as error:
        refuse_secret_variables({name: value}, "cluster.environment")
    assert error.value.field == f"cluster.environment.{name}"
    assert "sesame" not in str(error.value)


def test_other_variables_are_not() -> None:
    plain = {
        "NCCL_SOCKET_IFNAME": "eth0",
        "TOKENIZERS_PARALLELISM": "false",
        "NCCL_IB_PKEY": "1",
        "NUMBA_BYPASS": "1",
        "HTTPS_PROXY": "http://proxy:3128",
        "AWS_PROFILE": "acme",
        "WORKERS": 4,
    }
    refuse_secret_variables(plain, "cluster.environment")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("cluster: {environment: {HF_TOKEN: sesame}}", "cluster.environment.HF_TOKEN"),
        ("ray: {runtime_env: {env_vars: {HF_TOKEN: sesame}}}", "ray.runtime_env.env_vars.HF_TOKEN"),
        ("ray: {runtime_env: {env_vars: [HF_TOKEN=sesame]}}", "ray.runtime_env.env_vars"),
    ],
)
def test_a_plan_says_so(content: str, field: str, tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        refuse_job(load_settings(tmp_path))
    assert (error.value.field, str(error.value.file)) == (field, str(tmp_path / "ft_dagster.yaml"))
    assert "sesame" not in str(error.value)
