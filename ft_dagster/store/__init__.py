"""Keeps artifacts, heads and logs in a folder or under an s3:// prefix."""

from ft_dagster.store.artifacts import Artifact, Place, find_artifact, verify_artifact
from ft_dagster.store.attempts import Attempt, begin_attempt, commit_attempt
from ft_dagster.store.blobs import SHARED, Store
from ft_dagster.store.heads import read_head, tenant_name, write_head
from ft_dagster.store.remote_errors import UNREACHED, closed, disk_full, outage, refused, unreachable

__all__ = [
    "SHARED",
    "UNREACHED",
    "Artifact",
    "Attempt",
    "Place",
    "Store",
    "begin_attempt",
    "closed",
    "commit_attempt",
    "disk_full",
    "find_artifact",
    "outage",
    "read_head",
    "refused",
    "tenant_name",
    "unreachable",
    "verify_artifact",
    "write_head",
]
