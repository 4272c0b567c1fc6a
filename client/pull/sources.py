"""Where releases are fetched from: gateways, an IPFS node's RPC, a folder of CAR files. None of them is believed."""

import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from ipfs import gateway
from ipfs.gateway import Progress
from ipfs.kubo import Kubo
from protocol.errors import BadInput, Unreachable
from protocol.unixfs import MAX_BLOCK_BYTES, Cid

NODE_SILENCE_S = 30.0
"""A node that has not found a block after this is not waited for: gateways are next."""
_PIECE_BYTES = 1 << 20


class Source(Protocol):
    """What it gives is yet to be checked. Unreachable where it has nothing, or breaks off; BadInput where it lies."""

    name: str

    def car(
        self, cid: Cid, into: BinaryIO, *, max_bytes: int, timeout_s: float, progress: Progress | None = None
    ) -> None:
        """Everything below ``cid`` as a CAR. What was written into ``into`` before an error may be used."""
        ...

    def block(self, cid: Cid, *, timeout_s: float) -> bytes:
        """One block."""
        ...


class Gateway:
    """Any trustless gateway, by its base URL."""

    def __init__(self, url: str) -> None:
        self.name = url

    def car(
        self, cid: Cid, into: BinaryIO, *, max_bytes: int, timeout_s: float, progress: Progress | None = None
    ) -> None:
        url = gateway.car_url(self.name, cid)
        gateway.download(url, into, max_bytes=max_bytes, timeout_s=timeout_s, progress=progress)

    def block(self, cid: Cid, *, timeout_s: float) -> bytes:
        into = BytesIO()
        url = gateway.block_url(self.name, cid)
        gateway.download(url, into, max_bytes=MAX_BLOCK_BYTES, timeout_s=timeout_s, accept=gateway.ACCEPT_RAW)
        return into.getvalue()


class Node:
    """An IPFS node's RPC, which finds in the network what it has not itself."""

    def __init__(self, address: str) -> None:
        self._kubo = Kubo(address, NODE_SILENCE_S)
        self.name = self._kubo.name

    def car(
        self, cid: Cid, into: BinaryIO, *, max_bytes: int, timeout_s: float, progress: Progress | None = None
    ) -> None:
        with self._kubo.export(cid) as pieces:
            _write(pieces, into, max_bytes, timeout_s, progress)

    def block(self, cid: Cid, *, timeout_s: float) -> bytes:
        return self._kubo.block(cid)


class CarFolder:
    """A folder of CAR files, each named after its root, as a coordinator's ``cars``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = str(folder)

    def car(
        self, cid: Cid, into: BinaryIO, *, max_bytes: int, timeout_s: float, progress: Progress | None = None
    ) -> None:
        try:
            with (self._folder / f"{cid}.car").open("rb") as file:
                _write(iter(lambda: file.read(_PIECE_BYTES), b""), into, max_bytes, timeout_s, progress)
        except OSError as error:
            raise Unreachable(f"it has no readable {cid}.car") from error

    def block(self, cid: Cid, *, timeout_s: float) -> bytes:
        raise Unreachable("it has whole releases only")


def _write(
    pieces: Iterable[bytes], into: BinaryIO, max_bytes: int, timeout_s: float, progress: Progress | None
) -> None:
    deadline, received = time.monotonic() + timeout_s, 0
    for piece in pieces:
        received += len(piece)
        if received > max_bytes:
            raise BadInput(f"it sent more than the {max_bytes} bytes that are allowed")
        if time.monotonic() > deadline:
            raise Unreachable(f"not finished within {timeout_s:g} s")
        into.write(piece)
        if progress:
            progress(received)
