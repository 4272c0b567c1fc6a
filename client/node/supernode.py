"""The member's SuperNode as a child process: started, kept running, ended."""

import os
import secrets
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.node.tasks import INSTALLED_HANDLER
from processes.children import Child
from processes.ports import free_ports
from protocol.errors import BadInput
from protocol.private_file import write_private

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 10.0  # seconds between an unexpected end and the next start
STEADY = 60.0  # seconds after which a start counts as a success


class SuperNodeProcess:
    """Connects one member to a coordinator's SuperLink for as long as it runs.

    Keeps its files (log, Flower's own folder, secret of its local API) in ``home/flower``. When the SuperNode ends
    by itself it is started again: the SuperLink refuses a key that is not registered (yet), and, for up to a
    minute, one whose node was killed and looks connected still.
    """

    def __init__(
        self,
        home: Path,
        superlink_address: str,
        root_certificate: Path,
        private_key: Path,
        handler: str = INSTALLED_HANDLER,
    ) -> None:
        """``superlink_address`` is host:port; ``private_key`` an unencrypted EC P-384 key, PKCS #8 or OpenSSH PEM."""
        self.home = home.absolute()
        self._folder = self.home / "flower"
        self._superlink = superlink_address
        self._root_certificate = root_certificate.absolute()
        self._private_key = private_key.absolute()
        self._handler = handler
        self._child: Child | None = None
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs now (not: whether the SuperLink accepted it)."""
        return self._child is not None and self._child.alive

    @property
    def log_file(self) -> Path:
        """Where the SuperNode and its tasks write."""
        return self._folder / "supernode.log"

    def start(self) -> None:
        """Start it and return at once; ``BadInput`` when the key cannot be used."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._folder / "node_key", _as_openssh(self._private_key.read_bytes()))
        self._stopping.clear()
        self._child = self._spawn()
        self._keeper = threading.Thread(target=self._keep, name="supernode", daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """End it and every task it runs."""
        with self._starting:
            self._stopping.set()
        if self._child is not None:
            self._child.stop()
        if self._keeper is not None:
            self._keeper.join()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop it."""
        self.stop()

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while self._child is not None:
            started = time.monotonic()
            self._child.wait()
            if time.monotonic() - started > STEADY:
                pause = FIRST_PAUSE
            if self._stopping.wait(pause):
                return
            pause = min(2 * pause, LONGEST_PAUSE)
            with self._starting:
                if self._stopping.is_set():
                    return
                self._child = self._spawn()

    def _spawn(self) -> Child:
        secret = self._folder / "secret"
        write_private(secret, secrets.token_bytes(32))
        command = [sys.executable, "-m", "client.node", "supernode"]
        command += ["--superlink", self._superlink, "--root-certificates", str(self._root_certificate)]
        command += ["--auth-supernode-private-key", str(self._folder / "node_key")]
        command += ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
        command += ["--host", "127.0.0.1", "--port", str(free_ports(1)[0])]
        environment = {
            **os.environ,
            "COTERIE_HOME": str(self.home),
            "COTERIE_HANDLER": self._handler,
            "FLWR_HOME": str(self._folder / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONSAFEPATH": "1",  # nothing is imported from the folder that this happens to be started in
        }
        return Child(command, self.log_file, environment)


def _as_openssh(key: bytes) -> bytes:
    """The key in the only format that Flower reads."""
    load = serialization.load_ssh_private_key if b"OPENSSH" in key else serialization.load_pem_private_key
    try:
        private_key = load(key, None)
    except (ValueError, TypeError) as error:
        raise BadInput("The node key cannot be read.", "It must be an unencrypted EC P-384 private key.") from error
    if not isinstance(private_key, ec.EllipticCurvePrivateKey) or not isinstance(private_key.curve, ec.SECP384R1):
        raise BadInput("The node key is of the wrong kind.", "It must be an unencrypted EC P-384 private key.")
    return private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
