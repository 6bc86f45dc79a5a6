"""Signs statements and says whose signature one bears: DSSE envelopes, by keys that a trust root lists.

A statement is a file whose bytes are signed as they are: a manifest, a tombstone, an entry of a release log.
Formats and keys are those of securesystemslib: Ed25519, ECDSA on P-256 or P-384, RSA of at least 3072 bits.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.errors import UserError
from ft_dagster.provenance.witnessed import Position
from ft_dagster.strict_json import loads

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

Role = Literal["builder", "approver", "auditor"]
MANIFEST = "application/vnd.in-toto+json"
TOMBSTONE = "application/vnd.ft-dagster.tombstone+json"
RELEASE = "application/vnd.ft-dagster.release+json"
MIRRORED = "application/vnd.ft-dagster.mirrored+json"  # a checkpoint of a training
ERASURE = "application/vnd.ft-dagster.erasure+json"  # an entry of an erasure log
CHECKPOINT = "application/vnd.ft-dagster.checkpoint+json"
AMENDMENT = "application/vnd.ft-dagster.amendment+json"  # of evidence, see `store.amendments`
COUNT: Mapping[str, tuple[Role, ...]] = {  # whose signature counts on what
    MANIFEST: ("builder", "auditor"),
    TOMBSTONE: ("builder", "auditor"),
    RELEASE: ("builder", "approver", "auditor"),
    MIRRORED: ("builder",),
    ERASURE: ("builder", "approver", "auditor"),
    CHECKPOINT: ("builder", "approver", "auditor"),
    AMENDMENT: ("builder", "auditor"),
}
TRUST_FILE = "trust.yaml"
VARIABLE = "FT_DAGSTER_SIGNING_KEY"  # no child program gets it
RSA_BITS = 3072
CURVES = ("secp256r1", "secp384r1")
_PEM = "-----BEGIN "
_URI = re.compile(r"[a-z0-9]+kms:.+")  # of a service that signs and keeps the key
_BARE = re.compile(r"[\s'\"]*(?:M|LS0t)[A-Za-z0-9+/=\s'\"]{40,}")  # as a key without its first line looks
_OTHERS = 0o077


@dataclass(frozen=True)
class TrustedKey:
    """Holds a public key and what its signature stands for. `person`: of an approver, who signs by it.
    `revoked`: nothing that it signed counts, but for what a witness had seen by the checkpoint `kept`, where
    one is given. `uri`: of the service that has the private key, where one has.
    """

    name: str
    role: Role
    pem: str
    begins: datetime
    ends: datetime | None = None
    person: str | None = None
    revoked: bool = False
    uri: str | None = None
    kept: Position | None = None

    @cached_property
    def public(self) -> SSlibKey:
        """Return the key as securesystemslib has it. Raises ValueError for what is none, or too short."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.signer import SSlibKey

        try:
            key = load_pem_public_key(self.pem.encode())
            found = SSlibKey.from_crypto(key)
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("not a public key in PEM, or of a kind that cannot sign") from None
        if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits: {RSA_BITS} are the least")
        if isinstance(key, EllipticCurvePublicKey) and key.curve.name not in CURVES:
            raise ValueError(f"a key on the curve {key.curve.name}: {' or '.join(CURVES)} are taken")
        return found

    @property
    def id(self) -> str:
        """Return the 64 hexadecimal digits by which envelopes name the key."""
        return str(self.public.keyid)

    def holds_at(self, moment: datetime) -> bool:
        return self.begins <= moment and (self.ends is None or moment <= self.ends)

    def counts_on(self, made: datetime) -> bool:
        """Say whether its signature counts on what was made then: an auditor's on all that was there before,
        too.
        """
        return self.holds_at(max(made, self.begins) if self.role == "auditor" else made)


class Signer:
    """Signs by one key of a trust root."""

    def __init__(self, key: TrustedKey, signer: Any) -> None:
        self.key, self._signer = key, signer

    def envelope(self, content: bytes, kind: str) -> bytes:
        """Return the envelope of a statement, as JSON. Raises UserError where the key may not sign now."""
        from securesystemslib.dsse import Envelope

        self.check_now()
        made = Envelope(content, kind, {})
        made.sign(self._signer)
        return json.dumps(made.to_dict()).encode()

    def check_now(self) -> None:
        """Raises UserError where the key may not sign now."""
        now = datetime.now(UTC)
        if not self.key.holds_at(now):
            until = "" if self.key.ends is None else f" until {self.key.ends.isoformat()}"
            raise UserError(
                f"the key {self.key.name} may not sign at {now.isoformat(timespec='seconds')}",
                file=TRUST_FILE,
                field="keys",
                value=f"from {self.key.begins.isoformat()}{until}",
                fix="Look at this host's clock, or sign by another key",
            )


@dataclass(frozen=True)
class Trust:
    """Holds a trust root: whose signatures count, and whether what bears none counts as well (`unsigned`).
    `witnesses`: addresses of who is told of release logs, see `store.witness`; `strict`: nothing is released
    while one of them cannot be reached. `signer`: by which key this process signs; None: by none.
    `thresholds`: how many have to sign, by kind of statement, where it is more than one. `known`: what was
    verified, by the part of the store, kind and sha256.
    """

    file: Path
    version: int
    keys: tuple[TrustedKey, ...]
    unsigned: Literal["accepted", "refused"] = "accepted"
    witnesses: tuple[str, ...] = ()
    strict: bool = False
    signer: Signer | None = None
    thresholds: Mapping[str, int] = field(default_factory=dict)
    known: dict[tuple[str, str, str], tuple[TrustedKey, ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def refuses(self) -> bool:
        return self.unsigned == "refused"

    @property
    def has_approvers(self) -> bool:
        """Say whether approvals are signed by the persons who give them. A key that was revoked, or has
        ended, gives no approval back to names alone.
        """
        return any(key.role == "approver" for key in self.keys)

    def signs(self, kind: str) -> bool:
        """Say whether the signature of this process would count on a statement."""
        return self.signer is not None and self.signer.key.role in COUNT[kind]

    def needs(self, kind: str) -> int:
        """Return how many have to sign a kind of statement."""
        return self.thresholds.get(kind, 1)

    def lacks(self, kind: str, by: Iterable[TrustedKey]) -> int:
        """Return how many more have to sign a statement that these keys signed; a person counts once, and an
        auditor for all.
        """
        who = {key.person or key.id for key in by}
        return 0 if any(key.role == "auditor" for key in by) else max(0, self.needs(kind) - len(who))

    def counting(self) -> list[TrustedKey]:
        """Return the keys whose signatures count; of a revoked one, those on what a witness had seen."""
        return [key for key in self.keys if not key.revoked or key.kept is not None]

    def signers(
        self, content: bytes, kind: str, at: datetime, envelopes: Iterable[bytes], *, revoked: bool = False
    ) -> tuple[TrustedKey, ...]:
        """Return the keys by which a statement of this time is signed in envelopes; what is none is passed
        over, and takes nothing from a signature beside it. Of a revoked key that keeps what a witness had
        seen, whoever calls asks for that (see `store.signatures`). `revoked`: those by keys that are revoked,
        too.
        """
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import Error

        no_envelope = (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError)
        listed = self.keys if revoked else self.counting()
        keys = {key.id: key for key in listed if key.role in COUNT[kind]}
        found = dict[str, TrustedKey]()
        for one in envelopes:
            try:
                envelope = Envelope.from_dict(loads(one))
                same = (envelope.payload, envelope.payload_type) == (content, kind)
            except no_envelope:
                continue
            for key_id in envelope.signatures.keys() & keys.keys() if same else ():
                with suppress(*no_envelope):
                    envelope.verify([keys[key_id].public], 1)
                    if keys[key_id].counts_on(at):
                        found[key_id] = keys[key_id]
        return tuple(found.values())


def envelope_content(envelope: Any) -> bytes:
    """Return the statement in an envelope, whoever signed it. Raises ValueError, KeyError or TypeError for
    what is none.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        return bytes(Envelope.from_dict(deepcopy(envelope)).payload)  # which takes it apart
    except Error as error:
        raise ValueError(str(error)) from None


def load_signer(said: str, keys: Iterable[TrustedKey], project: Path) -> Signer:
    """Load the key that `signing_key` names: a PEM file of this user alone, from the project; the PEM text,
    in the environment; the URI of a key service that a trusted key names. Raises UserError.
    """
    known = [key for key in keys if not key.revoked]
    if _URI.fullmatch(said):
        return _by_service(said, known)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    text = signing_key_text(said)
    if not text and _BARE.fullmatch(said) and not os.path.lexists(project / said):
        problem = "no file of this name, which is not shown: it could be the key itself"
        fix = "Name a file of mode 600; or give the key as PEM, from its line -----BEGIN on"
        raise UserError(problem, field="signing_key", fix=fix)
    file = VARIABLE if text else project / os.path.expanduser(said)  # which leaves what it does not know
    content = said.encode() if text else read_private(Path(file))
    try:
        private = load_pem_private_key(content, None)
        signer = CryptoSigner(private)  # which refuses other kinds
    except (ValueError, TypeError, UnsupportedAlgorithm):
        fix = "Make one by `ft-dagster trust new-key NAME --role builder`"
        problem = "not a private key in PEM without a password, or of a kind that cannot sign here"
        raise UserError(problem, file=file, field="signing_key", fix=fix) from None
    own = next((key for key in known if key.id == signer.public_key.keyid), None)
    if own is None:
        raise UserError(
            "the key that would sign here is not in the trust root, or is revoked there",
            file=file,
            field="signing_key",
            fix=f"Add its public part to {TRUST_FILE}, or name another key",
        )
    return Signer(own, signer)


def _by_service(uri: str, keys: Iterable[TrustedKey]) -> Signer:
    from securesystemslib.exceptions import Error
    from securesystemslib.signer import Signer as AnySigner

    own = next((key for key in keys if key.uri == uri), None)
    if own is None:
        fix = f"Give the key in {TRUST_FILE} this `uri`"
        raise UserError("no trusted key is of this service", field="signing_key", value=uri, fix=fix)
    try:
        return Signer(own, AnySigner.from_priv_key_uri(uri, own.public))
    except (Error, ValueError, ImportError) as error:
        fix = "Install what securesystemslib needs for this service, and see that it can be reached"
        raise UserError(str(error), field="signing_key", value=uri, fix=fix) from None


def read_private(file: Path, field: str = "signing_key", what: str = "private key") -> bytes:
    """Read a file that this user alone may read. Raises UserError, naming `field` and `what` it is."""
    try:
        mode = file.stat().st_mode
        content = file.read_bytes() if stat.S_ISREG(mode) else b""
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise UserError(problem, file=file, field=field, fix=f"Name the file of the {what}") from None
    if not stat.S_ISREG(mode):
        raise UserError("not a regular file", file=file, field=field, fix=f"Name the file of the {what}")
    if stat.S_IMODE(mode) & _OTHERS:
        raise UserError(
            f"others may read this {what}",
            file=file,
            field=field,
            value=oct(stat.S_IMODE(mode)),
            fix=f"chmod 600 {file}, and change the {what.rpartition(' ')[2]} where others may have read it",
        )
    return content


def new_key() -> tuple[bytes, str]:
    """Make a key on the curve P-256, of which OpenSSF Model Signing takes signatures too; return (its private
    part, its public part), both in PEM.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    private = generate_private_key(SECP256R1())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public.decode()


def without_key(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the key that signs."""
    return {name: value for name, value in environment.items() if name != VARIABLE}


def signing_key_text(said: str) -> bool:
    """Say whether `signing_key` is the key itself, and neither a file nor a service."""
    return _PEM in said


def signing_key_file(said: str | None) -> tuple[str, ...]:
    """Return the file that `signing_key` names, if it names one."""
    return () if said is None or signing_key_text(said) or _URI.fullmatch(said) else (said,)
