"""Fetching by CID from gateways nobody has to trust.

A gateway's answer is stored as it comes, every block in it is hashed, and what is asked for is read from the CID
downwards: blocks that do not belong are never reached, missing ones are noticed. The first gateway whose answer holds
wins; if none does, the error tells what each of them did.
"""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from client.pull.gateway import Progress, download_car
from protocol.car import Car
from protocol.errors import BadInput, Conflict, CoterieError, NotFound, Unreachable
from protocol.unixfs import Cid, read_file, split_path, trail, walk

_PATH_BLOCKS_BYTES = 8 * 1024 * 1024
"""Room, beside a file's own bytes, for the directories that lead to it and the CAR's framing."""

T = TypeVar("T")


def fetch_release(
    cid: str,
    gateways: Sequence[str],
    into: Path,
    *,
    max_bytes: int,
    timeout_s: float,
    progress: Progress | None = None,
) -> Path:
    """Fetch the directory ``cid`` into the new folder ``into`` and return it. It appears whole or not at all.

    ``gateways`` are base URLs, tried in order; each may use its share of what is left of ``timeout_s`` seconds.
    ``max_bytes`` caps a download and, separately, the files unpacked from it. Unreachable if no gateway gave a
    verified copy, Conflict if ``into`` exists.
    """
    root = Cid.parse(cid)
    if into.exists():
        raise Conflict(f"{into} exists already.", "Choose a folder that does not exist yet.")
    into.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(into) as work:
        unpacked = work / "unpacked"

        def unpack(car: Car) -> None:
            shutil.rmtree(unpacked, ignore_errors=True)
            _unpack(root, car, unpacked, max_bytes)

        query = f"/ipfs/{root}?format=car&dag-scope=all"
        _from_any(gateways, query, work, max_bytes, timeout_s, progress, unpack)
        unpacked.rename(into)
    return into


def fetch_file(cid_path: str, gateways: Sequence[str], max_bytes: int, timeout_s: float) -> bytes:
    """The bytes of one file, ``"cid"`` or ``"cid/a/b"`` (decoded, no leading slash), verified from the CID on.

    NotFound if a verified directory lacks the name; Unreachable if no gateway gave a verified copy.
    """
    cid, _, path = cid_path.partition("/")
    root = Cid.parse(cid)
    steps = "".join("/" + quote(name, safe="") for name in split_path(path)) if path else ""

    def read(car: Car) -> bytes:
        target = trail(root, path, car.get)[-1]
        return b"".join(read_file(target, car.get, max_bytes=max_bytes))

    query = f"/ipfs/{root}{steps}?format=car&dag-scope=entity"
    return _from_any(gateways, query, None, max_bytes + _PATH_BLOCKS_BYTES, timeout_s, None, read)


def _from_any(
    gateways: Sequence[str],
    query: str,
    folder: Path | None,
    max_bytes: int,
    timeout_s: float,
    progress: Progress | None,
    use: Callable[[Car], T],
) -> T:
    """``use`` of the first CAR that it accepts; a stalled gateway uses up its own share of the time only.

    Downloads lie in ``folder`` (None: the system's), without a name.
    """
    deadline = time.monotonic() + timeout_s
    reasons = []
    for index, gateway in enumerate(gateways):
        share = (deadline - time.monotonic()) / (len(gateways) - index)
        if share <= 0:
            reasons.append(f"{gateway}: no time left")
            continue
        try:
            url = _base(gateway) + query
            with tempfile.TemporaryFile(dir=folder) as download:
                download_car(url, download, max_bytes=max_bytes, timeout_s=share, progress=progress)
                download.seek(0)
                return use(Car(download, max_bytes))
        except NotFound:
            # Read from verified directories, so every honest gateway would show the same.
            raise
        except CoterieError as error:
            reasons.append(f"{gateway}: {error}")
    raise Unreachable(
        f"No gateway gave a verified copy of {query.partition('?')[0]}. " + " | ".join(reasons or ["none was named"]),
        "Try again later or name another gateway.",
    )


def _base(gateway: str) -> str:
    """The gateway's URL without its last slash; BadInput for anything but http and https."""
    parts = urlsplit(gateway)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadInput("not an http(s) address of a gateway")
    return gateway.rstrip("/")


def _unpack(root: Cid, car: Car, into: Path, max_bytes: int) -> None:
    """Write the directory ``root`` to the new folder ``into``, at most ``max_bytes`` of files in all."""
    left = max_bytes
    for path, cid, is_dir in walk(root, car.get):
        target = into.joinpath(*_local_names(path))
        if is_dir:
            target.mkdir()
            continue
        if not path:
            raise BadInput(f"{root} is a single file, not a release.")
        # "x": two names that are one on this file system (letter case, Unicode forms) must not overwrite each other.
        with target.open("xb") as file:
            for piece in read_file(cid, car.get, max_bytes=left):
                left -= file.write(piece)


def _local_names(path: str) -> tuple[str, ...]:
    """The path's names, if this machine reads each of them as one plain name (Windows has drives and streams)."""
    names = tuple(path.split("/")) if path else ()
    if any(Path(name).name != name for name in names):
        raise BadInput(f"The path {path!r} cannot be written on this machine.")
    return names


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A working folder on the target's own file system, so that moving out of it is one rename; removed at the end."""
    work = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
