"""The node key: EC P-384, made on the training box, signs contributions, useless for moving assets.

It is the same key that authenticates the SuperNode, so that one registration covers both.
"""

from pathlib import Path
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from protocol.canonical import Document, sha256
from protocol.errors import BadInput, ContributionRefused
from protocol.private_file import write_private

_ALGORITHM = ec.ECDSA(hashes.SHA384())


class RetireKey(Document):
    """A machine's own word that its old node key shall not be let in any more; signed with the old key."""

    dao: str
    old: Annotated[str, Field(pattern=r"^0[23][0-9a-f]{96}$")]
    new: Annotated[str, Field(pattern=r"^0[23][0-9a-f]{96}$")]


def create(path: Path) -> None:
    """Write a new private key (PKCS 8 PEM, readable by the owner only) unless there is one already."""
    if path.exists():
        return
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(path, pem)


def public_of(path: Path) -> str:
    """The public half of a private key file as compressed point, 98 hex digits."""
    return _hex(_load(path).public_key())


def public_pem(public: str) -> bytes:
    """SubjectPublicKeyInfo PEM of a compressed point, as Flower registers it."""
    return _point(public).public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(public: str) -> str:
    """What a person compares on two screens: 80 bits of the point's SHA-256, as ``3F2A-91BC-04D7-EE10-77A3``."""
    digits = sha256(bytes.fromhex(public))[:20].upper()
    return "-".join(digits[at : at + 4] for at in range(0, 20, 4))


def sign(path: Path, message: bytes) -> str:
    """ECDSA over SHA-384 (FIPS 186-5), DER, hex."""
    return _load(path).sign(message, _ALGORITHM).hex()


def verify(public: str, message: bytes, signature: str) -> None:
    """Check a node's signature.

    Raises:
        ContributionRefused: the signature is not that key's over these bytes.
    """
    try:
        _point(public).verify(bytes.fromhex(signature), message, _ALGORITHM)
    except (InvalidSignature, ValueError) as error:
        raise ContributionRefused(f"The signature does not match node key {public[:14]}….") from error


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise BadInput(f"{path} holds no EC P-384 key.", "Delete it and join again to make a new node key.")
    return key


def _point(public: str) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), bytes.fromhex(public))
    except ValueError as error:
        raise BadInput(f"{public[:14]}… is no EC P-384 public key.") from error


def _hex(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint).hex()
