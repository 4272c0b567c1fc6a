"""The coordinator's SuperLink as a child process: its certificates, its files, its start and its end."""

import datetime
import ipaddress
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from processes.children import Child
from processes.ports import free_ports
from protocol.errors import Unreachable
from protocol.private_file import write_private

HOST = "127.0.0.1"
CA_LIFE = datetime.timedelta(days=3650)
SERVER_LIFE = datetime.timedelta(days=365)


class SuperLinkProcess:
    """Flower's server on loopback, with TLS and SuperNode authentication.

    Keeps everything in ``data/flower``: port, certificates, database (so that a restart knows the registered nodes)
    and log. One port serves three APIs, of which only ``/v1/fleet/*`` may ever be shown to the outside: the others
    have no authentication.
    """

    def __init__(self, data: Path, exchange: str, port: int | None = None) -> None:
        """``exchange`` names ``module:function`` (see ``exchange.load_exchange``); without ``port``, any free one."""
        self._folder = data.absolute() / "flower"
        self._exchange = exchange
        self._wished_port = port
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """The port, the same at every start: members have written it down."""
        remembered = self._folder / "port"
        if self._wished_port is not None:
            return self._wished_port
        if not remembered.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            remembered.write_text(str(free_ports(1)[0]))
        return int(remembered.read_text())

    @property
    def address(self) -> str:
        """host:port, for ``SuperLinkControl`` and for members on this machine."""
        return f"{HOST}:{self.port}"

    @property
    def root_certificate(self) -> Path:
        """The PEM file that members need to trust this SuperLink; there once it was started."""
        return self._folder / "ca.pem"

    @property
    def log_file(self) -> Path:
        """Where the SuperLink and the relay write."""
        return self._folder / "superlink.log"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._child is not None and self._child.alive

    def start(self, timeout: float = 60.0) -> None:
        """Start it and return when it answers; ``Unreachable`` when it does not within ``timeout`` seconds."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        certify(self._folder)
        write_private(self._folder / "secret", secrets.token_bytes(32))
        self._child = Child(self._command(), self.log_file, self._environment())
        deadline = time.monotonic() + timeout
        while not _answers(self.port):
            if not self.alive or time.monotonic() > deadline:
                self.stop()
                raise Unreachable("The SuperLink did not start.", f"Read {self.log_file}.")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it together with every run's process."""
        if self._child is not None:
            self._child.stop()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it."""
        self.stop()

    def _command(self) -> list[str]:
        folder = self._folder
        return [
            *(sys.executable, "-m", "coordinator.flower", "superlink"),
            *("--host", HOST, "--port", str(self.port)),
            *("--ssl-certfile", str(folder / "server.pem"), "--ssl-keyfile", str(folder / "server.key")),
            *("--ssl-ca-certfile", str(folder / "ca.pem"), "--enable-supernode-auth"),
            *("--isolation", "process", "--superexec-auth-secret-file", str(folder / "secret")),
            *("--database", str(folder / "superlink.db"), "--disable-runtime-dependency-installation"),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "COTERIE_EXCHANGE": self._exchange,
            "FLWR_HOME": str(self._folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONSAFEPATH": "1",  # nothing is imported from the folder that this happens to be started in
        }


def certify(folder: Path) -> None:
    """Write ``server.pem`` and ``server.key``, good for a year on loopback, signed by ``ca.pem``, which is kept."""
    ca_key, ca = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address(HOST)),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
    )
    certificate = (
        _certificate("Coterie SuperLink", SERVER_LIFE, key.public_key(), ca.subject, ca_key.public_key())
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(folder / "server.key", _pem(key))
    (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_file, certificate_file = folder / "ca.key", folder / "ca.pem"
    if certificate_file.exists():
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{key_file} holds no EC key")
        return key, x509.load_pem_x509_certificate(certificate_file.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _certificate("Coterie SuperLink authority", CA_LIFE, key.public_key(), None, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(key_file, _pem(key))
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key, certificate


def _certificate(
    name: str,
    life: datetime.timedelta,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name | None,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
