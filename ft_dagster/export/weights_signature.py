"""Signs the files of a published model as OpenSSF Model Signing v1.0 does, so that its command `model_signing
verify key` verifies them without this project.

The format is theirs: a Sigstore bundle 0.3 around an in-toto statement that lists each file's sha256
(https://github.com/ossf/model-signing-spec).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ft_dagster.provenance.digest import hash_folder
from ft_dagster.provenance.signing import MANIFEST, Signer

FILE = "model.sig"
IGNORED = [".git", ".gitattributes", ".github", ".gitignore"]  # which a hub adds
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE = "https://model_signing/signature/v1.0"


def can_sign(signer: Signer) -> bool:
    """Say whether a key is on an elliptic curve of the format (P-256, P-384)."""
    return _hint(signer.key.pem) is not None


def sign_weights(signer: Signer, folder: Path) -> bool:
    """Write the signature of a folder's files into it; False, with nothing written, for a key that is not on
    an elliptic curve of that format (P-256, P-384). Raises UserError where the key may not sign now.
    """
    hint = _hint(signer.key.pem)
    if hint is None:
        return False
    files = {each.path: each.sha256 for each in hash_folder(folder) if each.path.split("/")[0] not in IGNORED}
    whole = hashlib.sha256(b"".join(bytes.fromhex(files[name]) for name in sorted(files))).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": folder.name, "digest": {"sha256": whole}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "resources": [
                {"algorithm": "sha256", "digest": files[name], "name": name} for name in sorted(files)
            ],
            "serialization": {
                "hash_type": "sha256",
                "allow_symlinks": False,
                "method": "files",
                "ignore_paths": IGNORED,
            },
        },
    }
    envelope = json.loads(signer.envelope(json.dumps(statement).encode(), MANIFEST))
    signatures = [{"sig": each["sig"], "keyid": ""} for each in envelope["signatures"]]
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {**envelope, "signatures": signatures},
    }
    (folder / FILE).write_text(json.dumps(bundle), "utf-8")
    return True


def _hint(pem: str) -> str | None:
    """Return what names an elliptic key in a bundle: the sha256 of its PEM; None for another kind of key."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    key = load_pem_public_key(pem.encode())
    if not isinstance(key, EllipticCurvePublicKey):
        return None
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
