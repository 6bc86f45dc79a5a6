"""Makes keys, and trust roots that list them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from ft_dagster.provenance.signing import Role, Signer, Trust, TrustedKey, new_key

NOW = datetime.now(UTC)


def key(name: str, role: Role = "builder", **more: Any) -> tuple[TrustedKey, Signer]:
    private, public = new_key()
    trusted = TrustedKey(name, role, public, NOW - timedelta(days=1), **more)
    return trusted, Signer(trusted, CryptoSigner(load_pem_private_key(private, None)))


BUILDER, SIGNS = key("builder")
AUDITOR, VOUCHES = key("auditor", "auditor")
APPROVER, APPROVES = key("ann", "approver", person="ann")
_, STRANGER = key("stranger")


def trust(signer: Signer | None = SIGNS, *keys: TrustedKey, unsigned: Any = "refused") -> Trust:
    return Trust(Path("trust.yaml"), 1, keys or (BUILDER, AUDITOR, APPROVER), unsigned, signer=signer)
