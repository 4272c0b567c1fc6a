"""A node's RPC (``/api/v0``, as Kubo speaks it): pin a CAR there, and read back what it has.

The node is one's own, so it may take its time; it is not believed: what it gives is handed on to be hashed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import unquote, urlsplit

# Its patch of `requests`, for sockets in the file system, uses what urllib3 is about to drop; no address here is one.
os.environ.setdefault("PY_IPFS_HTTP_CLIENT_PATCH_REQUESTS", "no")

import ipfshttpclient
import requests
import urllib3
from ipfshttpclient import exceptions

from protocol.errors import BadInput, NotFound, Unreachable
from protocol.unixfs import Cid

TIMEOUT_S = (10.0, 300.0)
"""Seconds to connect, and between two pieces of an answer: an import ends with a sync to the disk."""
_BASE32 = {"cid-base": "base32"}

T = TypeVar("T")


class Kubo:
    """One node. Every method raises Unreachable where it does not answer as a node does."""

    def __init__(self, address: str, silence_s: float | None = None) -> None:
        """How to reach it.

        Args:
            address: a multiaddr (``/ip4/127.0.0.1/tcp/5001``) or a URL, with name and password where it needs them.
            silence_s: how long it may say nothing, which it does while it looks for something in the network.

        Raises:
            BadInput: it is neither.
        """
        multiaddr, self.name, login = _parsed(address)
        try:
            # Not `connect`, which refuses every node younger than the library.
            self._client = ipfshttpclient.Client(
                multiaddr, auth=login, timeout=(TIMEOUT_S[0], silence_s or TIMEOUT_S[1])
            )
        except Exception as error:  # what its multiaddr library raises is of many kinds
            raise _no_address() from error

    def put(self, cid: Cid, car: BinaryIO) -> None:
        """Import the CAR of ``cid`` and pin it, with everything below it. Unreachable if the node ends up without."""
        imported = self._ask(lambda: self._client.dag.imprt(car, opts=_BASE32))
        said = _plain(imported).get("Root", {})
        if said.get("PinErrorMsg"):
            raise Unreachable(f"The node did not pin {cid}: {str(said['PinErrorMsg'])[:200]}.", "Look at its disk.")
        root = said.get("Cid", {}).get("/")
        if root != str(cid):
            raise Unreachable(f"The node imported {str(root)[:80]}, not {cid}.", "Look at its version.")
        self._ask(lambda: self._client.pin.add(str(cid), opts=dict(_BASE32)))

    def pinned(self, cid: Cid) -> bool:
        """Whether the node says that it keeps ``cid`` and everything below it."""
        try:
            keys = _plain(self._ask(lambda: self._client.pin.ls(str(cid), type="recursive", opts=dict(_BASE32))))
        except NotFound:
            return False
        return str(cid) in keys.get("Keys", {})

    def unpin(self, cid: Cid) -> None:
        """Let go of ``cid``; nothing happens where it is not pinned."""
        if self.pinned(cid):
            self._ask(lambda: self._client.pin.rm(str(cid)))

    @contextmanager
    def export(self, cid: Cid, *, here_only: bool = False) -> Iterator[Iterator[bytes]]:
        """Everything below ``cid`` as a CAR in pieces, yet to be checked.

        Args:
            here_only: what the node has itself; else it may look for it in the network.
        """
        with self._errors(), self._client.dag.export(str(cid), stream=True, offline=here_only) as pieces:
            yield pieces

    def block(self, cid: Cid) -> bytes:
        """One block's bytes, yet to be checked."""
        return cast(bytes, self._ask(lambda: self._client.block.get(str(cid))))

    def addresses(self) -> tuple[str, ...]:
        """Where other nodes reach this one."""
        return tuple(str(one) for one in _plain(self._ask(self._client.id)).get("Addresses") or ())

    def connect(self, addresses: Sequence[str]) -> None:
        """Ask the node to connect to these others."""
        for address in addresses:
            self._ask(lambda address=address: self._client.swarm.connect(address))  # type: ignore[misc]

    def _ask(self, question: Callable[[], T]) -> T:
        with self._errors():
            return question()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ErrorResponse as error:
            if "not pinned" in str(error):
                raise NotFound(f"{self.name} has not pinned that.") from error
            raise Unreachable(f"{self.name} says: {str(error)[:200]}.", "Look at the node's log.") from error
        except AssertionError as error:  # so the library calls an answer of several lines
            raise Unreachable(f"{self.name} gives an answer that is not understood.", "Look at its version.") from error
        except (exceptions.Error, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Unreachable(
                f"No IPFS node answers at {self.name} ({type(error).__name__}).", "Start it, or change `ipfs_api`."
            ) from error


def _plain(answer: Any) -> dict[str, Any]:
    """The JSON behind the library's wrapping; a list of one where several could have come."""
    one = answer[0] if isinstance(answer, list) and answer else answer
    found = one.as_json() if hasattr(one, "as_json") else one
    return found if isinstance(found, dict) else {}


def _parsed(address: str) -> tuple[str, str, tuple[str, str] | None]:
    """A multiaddr, the address as it may be shown, and the login that was in it."""
    if address.startswith("/") and not address.startswith("/unix"):
        return address, address, None
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 5001)
    except ValueError as error:
        raise _no_address() from error
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
        raise _no_address()
    login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    shown = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return f"/{_kind(host)}/{host}/tcp/{port}/{parts.scheme}", shown, login


def _kind(host: str) -> str:
    try:
        return f"ip{ip_address(host).version}"
    except ValueError:
        return "dns"


def _no_address() -> BadInput:
    # The address itself is not repeated: it may hold a password.
    return BadInput(
        "`ipfs_api` is no address of an IPFS node's RPC.",
        "Write it as /ip4/127.0.0.1/tcp/5001 or http://127.0.0.1:5001.",
    )
