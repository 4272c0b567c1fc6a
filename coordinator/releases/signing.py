"""The coordinator's own signature over a release, in the OpenSSF model-signing format, and the key that makes it.

The key is an elliptic curve key without a certificate: whoever checks a release knows the key itself, and has not to
believe everybody whom some authority vouches for.
"""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.errors import BadInput, CoterieError, Unreachable
from protocol.private_file import write_private
from protocol.release_signature import SIGNATURE, SigningKey

KEY = "signing_key.pem"


def make_key(folder: Path) -> None:
    """A new P-256 key in ``folder``, whole or not at all; kept if there is one."""
    if (folder / KEY).exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / KEY, pem)


def signing_key(folder: Path) -> SigningKey:
    """The public half of the key in ``folder``; raises BadInput: there is none, or it does not sign releases."""
    path = folder / KEY
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        return SigningKey.of(key.public_key())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, BadInput) as error:
        raise BadInput(
            f"{path} holds no key that releases can be signed with (EC on P-256, P-384 or P-521, not encrypted).",
            "Put it back from a backup; or remove it, so that a new one is made, and tell readers of the new one.",
        ) from error


def shown_key(folder: Path) -> str | None:
    """What readers are told to check releases with: the public key in PEM, or None while there is none to sign with."""
    try:
        return signing_key(folder).pem
    except CoterieError:
        return None


def sign_release(release: Path, folder: Path) -> None:
    """Write ``model.sig`` over every other file that is in the folder ``release``.

    Raises:
        Unreachable: model-signing is not installed.
        BadInput: the key in ``folder`` does not sign.
    """
    signing_key(folder)
    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise Unreachable("The release cannot be signed.", "Install coterie[coordinator].") from error

    all_files = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    signer = signing.Config().use_elliptic_key_signer(private_key=folder / KEY).set_hashing_config(all_files)
    signer.sign(release, release / SIGNATURE)
