"""What a published model is signed by, and that others verify it."""

from __future__ import annotations

import base64
import json
import subprocess
import venv
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ft_dagster.errors import UserError
from ft_dagster.export.weights_signature import FILE, sign_weights
from tests.store.signing_keys import BUILDER, NOW, SIGNS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, signed."""
    made = tmp_path / "model"
    (made / "deeper").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "deeper/adapter_model.safetensors").write_bytes(b"more weights")
    (made / "config.json").write_text("{}")
    assert sign_weights(SIGNS, made)
    return made


def test_the_signature_is_over_the_hash_of_each_file(folder: Path) -> None:
    envelope = json.loads((folder / FILE).read_text())["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key = load_pem_public_key(BUILDER.pem.encode())
    assert isinstance(key, EllipticCurvePublicKey)
    key.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed, ECDSA(SHA256()))
    names = [each["name"] for each in json.loads(payload)["predicate"]["resources"]]
    assert names == ["config.json", "deeper/adapter_model.safetensors", "model.safetensors"]


def test_a_key_of_another_kind_signs_no_weights(tmp_path: Path) -> None:
    pem = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----"""
    signer = type(SIGNS)(replace(BUILDER, pem=pem), None)
    assert not sign_weights(signer, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_may_not_sign_yet_signs_none(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    later = type(SIGNS)(replace(BUILDER, begins=NOW.replace(year=NOW.year + 1)), SIGNS._signer)
    with pytest.raises(UserError, match="may not sign at"):
        sign_weights(later, tmp_path)


@pytest.mark.long
def test_model_signings_own_command_verifies_it_without_this_project(folder: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "other", with_pip=True)
    programs, public = tmp_path / "other/bin", tmp_path / "key.pub"
    subprocess.run([programs / "pip", "install", "-q", "model-signing>=1.1,<2", "pyopenssl"], check=True)
    public.write_text(BUILDER.pem)
    command: list[str | Path] = [programs / "model_signing", "verify", "key", folder]
    command += ["--signature", folder / FILE, "--public_key", public]
    assert (
        "Verification succeeded" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    (folder / "model.safetensors").write_bytes(b"other weights")
    changed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert changed.returncode
    assert "model.safetensors" in f"{changed.stdout}{changed.stderr}"
