"""A release's signature in the OpenSSF model-signing format: one key stands behind this set of files, whole.

``model.sig`` is a Sigstore bundle (v0.3) around a DSSE envelope around an in-toto statement (v1) that lists every other
file by SHA-256, signed with an elliptic curve key: what ``model_signing sign key`` writes and ``model_signing verify
key`` reads. Here it is only read, and more narrowly than there: no file may be left out, and nothing in it may be said
in two ways, so that a change of any byte is found. The specification is the one of OMS 1.0
(``https://model_signing/signature/v1.0``).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from protocol.canonical import sha256
from protocol.errors import BadInput, ContentMismatch, NotAllowed

SIGNATURE = "model.sig"
"""The name that the format proposes."""
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_CURVES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
"""The format's curves, each with its hash."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class SigningKey:
    """A coordinator's public key."""

    pem: str
    """SubjectPublicKeyInfo, as OpenSSL writes it: one key has one text."""

    @classmethod
    def parse(cls, data: bytes, what: str) -> "SigningKey":
        """Raises BadInput: ``what`` is no public key in PEM, or of a kind that the format does not know."""
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadInput(f"{what} is no public key in PEM.", "Ask the DAO for its coordinator's.") from error
        return cls.of(key, what)

    @classmethod
    def of(cls, key: object, what: str = "The key") -> "SigningKey":
        """Raises BadInput: not of a curve that the format knows."""
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            raise BadInput(
                f"{what} is not on P-256, P-384 or P-521, and releases are signed with no other keys.",
                "Ask the DAO for its coordinator's.",
            )
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return cls(key.public_bytes(serialization.Encoding.PEM, form).decode())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the PEM text, 64 hex digits: how ``model.sig`` names its key."""
        return sha256(self.pem.encode())

    @cached_property
    def _key(self) -> ec.EllipticCurvePublicKey:
        key = serialization.load_pem_public_key(self.pem.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` (ECDSA, DER) is this key's over ``message``."""
        try:
            self._key.verify(signature, message, ec.ECDSA(_CURVES[self._key.curve.name]))
        except InvalidSignature:
            return False
        return True


def require_signed(signature: bytes, key: SigningKey, files: Mapping[str, str]) -> None:
    """``signature`` (the bytes of ``model.sig``) is by ``key``, over just these ``files`` (SHA-256 by name).

    Raises:
        BadInput: it is not in the format, or in a part of it that releases do not use.
        NotAllowed: another key signed, or none.
        ContentMismatch: it is over other files.
    """
    bundle = _parsed(_Bundle, signature, SIGNATURE)
    envelope, hint = bundle.dsse_envelope, bundle.verification_material.public_key.hint
    if hint != key.fingerprint:
        raise NotAllowed(f"{SIGNATURE} is by the key {hint[:16]}…, not by {key.fingerprint[:16]}….")
    payload = base64.b64decode(envelope.payload)
    if not key.signed(_to_be_signed(payload), base64.b64decode(envelope.signatures[0].sig)):
        raise NotAllowed(f"The key {key.fingerprint[:16]}… did not sign this {SIGNATURE}.")
    _require_same(_parsed(_Statement, payload, f"The statement in {SIGNATURE}"), files)


def _to_be_signed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (protocol 1.0.2)."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _require_same(statement: "_Statement", files: Mapping[str, str]) -> None:
    resources = statement.predicate.resources
    signed = {one.name: one.digest for one in resources}
    for name in sorted(signed.keys() | files.keys()):
        if name not in signed:
            raise ContentMismatch(f"{SIGNATURE} leaves {name} out.")
        if name not in files:
            raise ContentMismatch(f"{name} is missing, which {SIGNATURE} is over.")
        if signed[name] != files[name]:
            raise ContentMismatch(f"{name} is not what was signed.")
    whole = sha256(b"".join(bytes.fromhex(one.digest) for one in resources))
    if len(signed) != len(resources) or statement.subject[0].digest.sha256 != whole:
        raise ContentMismatch(f"{SIGNATURE} does not agree with itself.")


def _plain_base64(text: str) -> str:
    """Of the several texts that many readers take for the same bytes, the one that RFC 4648 means."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("no base64") from error
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the plain base64 of anything")
    return text


_Base64 = Annotated[str, AfterValidator(_plain_base64)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Said(BaseModel):
    """A part of the bundle: nobody has signed it, so there is nothing in it that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


class _KeyHint(_Said):
    hint: _Sha256


class _Material(_Said):
    public_key: _KeyHint
    tlog_entries: tuple[()] = ()
    """No transparency log: nothing is asked of a network."""


class _OneSignature(_Said):
    sig: _Base64
    keyid: Literal[""] = ""


class _Envelope(_Said):
    payload: _Base64
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: tuple[_OneSignature]


class _Bundle(_Said):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Signed(BaseModel):
    """A part of the signed statement; what else it says is, by the specification, passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Digest(_Signed):
    sha256: _Sha256


class _Subject(_Signed):
    digest: _Digest


class _Serialization(_Signed):
    method: Literal["files"]
    hash_type: Literal["sha256"]


class _Resource(_Signed):
    name: str
    algorithm: Literal["sha256"]
    digest: _Sha256


class _Predicate(_Signed):
    serialization: _Serialization
    resources: tuple[_Resource, ...]


class _Statement(_Signed):
    kind: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    predicate_type: Annotated[Literal["https://model_signing/signature/v1.0"], Field(alias="predicateType")]
    subject: tuple[_Subject]
    predicate: _Predicate


def _parsed(model: type[Model], data: bytes, what: str) -> Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its beginning"
        raise BadInput(f"{what} cannot be read at {place}: {first['msg']}.", "Pull the release again.") from error
