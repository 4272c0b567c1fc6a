"""Content credentials (C2PA 2) in a release's pictures: that a model drew them, and which.

The certificate is the coordinator's own, made at first use and kept in its data folder: it says that the same
coordinator signed, and nobody vouches for who that is. A DAO with a certificate of a trusted issuer puts it there
instead.
"""

import datetime as dt
import io
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.canonical import Document
from protocol.errors import BadInput, Unreachable
from protocol.private_file import write_private

CERTIFICATES, KEY = "certificates.pem", "key.pem"
SELF_MADE = "Coterie, self-made: nobody vouches for it"
ASSERTION = "org.coterie.release"
_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_LIFE = dt.timedelta(days=365 * 20)


class Drawn(Document):
    """The release that a picture shows, as far as a picture within it can name it: its CID hangs on the picture."""

    dao: str
    round_id: str
    base: str
    base_hash: str
    adapter_sha256: str
    """Of ``pytorch_lora_weights.safetensors``."""
    licence: str


def credentialed(png: bytes, drawn: Drawn, folder: Path) -> bytes:
    """The picture with credentials signed by the certificate in ``folder``, which is made if there is none.

    Raises:
        Unreachable: c2pa-python is not installed.
        BadInput: the certificate does not sign.
    """
    try:
        from c2pa import Builder, C2paError, C2paSignerInfo, Context, Settings, Signer
    except (ImportError, OSError) as error:
        raise Unreachable("The sample sheet cannot be signed.", "Install coterie[coordinator].") from error

    make_certificate(folder, drawn.dao)
    chain, key = (folder / CERTIFICATES).read_text(), (folder / KEY).read_text()
    created = {"action": "c2pa.created", "digitalSourceType": _SOURCE}
    claim = {
        "claim_generator_info": [{"name": "Coterie"}],
        "title": f"{drawn.dao} collective, round {drawn.round_id}",
        "format": "image/png",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": ASSERTION, "data": drawn.model_dump(mode="json")},
        ],
    }
    settings = Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
    signed = io.BytesIO()
    try:
        signer = Signer.from_info(C2paSignerInfo("es256", chain.encode(), key.encode(), None))
        with Builder.from_json(json.dumps(claim), Context(settings)) as builder:
            builder.sign(signer, "image/png", io.BytesIO(png), signed)
    except C2paError as error:
        raise BadInput(
            f"The certificate in {folder} does not sign: {str(error)[:200]}.",
            f"Put a C2PA certificate and its P-256 key there, or remove both {CERTIFICATES} and {KEY}.",
        ) from error
    return signed.getvalue()


def make_certificate(folder: Path, dao: str) -> None:
    """A root of its own and, under it, one that signs by C2PA's profile for certificates; kept if there."""
    if (folder / CERTIFICATES).exists() and (folder / KEY).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = _name(dao[:60])
    base = x509.CertificateBuilder().not_valid_before(now).not_valid_after(now + _LIFE).issuer_name(root_name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    root = (
        base.subject_name(root_name)
        .public_key(root_key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    own = (
        base.subject_name(_name(f"{dao[:50]}: coordinator"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    # The key comes last: where it is, the certificates are whole.
    (folder / CERTIFICATES).write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (own, root)))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / KEY, pem)


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, SELF_MADE), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
