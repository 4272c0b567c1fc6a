"""Fetching by CID from sources nobody has to trust.

A source's answer is stored as it comes, every block in it is hashed, and what is asked for is read from the CID
downwards: blocks that do not belong are never reached, missing ones are noticed and asked for one by one. A source that
breaks off is asked to go on while it brings something, then the next one is; one that lies is asked nothing more. If
none helps, the error tells what each of them did.
"""

import contextlib
import glob
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from client.pull.kept import Kept, kept_in
from client.pull.sources import Gateway, Source
from ipfs.gateway import Progress, car_url, download
from protocol.car import Car, CutOff
from protocol.errors import BadInput, Conflict, CoterieError, NotFound, Unreachable
from protocol.unixfs import DAG_PB, Block, Cid, Get, read_file, split_path, trail, walk

_PATH_BLOCKS_BYTES = 8 * 1024 * 1024
"""Room, beside a file's own bytes, for the directories that lead to it and the CAR's framing."""
_ABANDONED_AFTER_S = 3600.0

T = TypeVar("T")


def fetch_release(
    cid: str,
    sources: Sequence[str | Source],
    into: Path,
    *,
    max_bytes: int,
    timeout_s: float,
    progress: Progress | None = None,
    keep: Path | None = None,
) -> Path:
    """Fetch the directory ``cid`` into the new folder ``into`` and return it. It appears whole or not at all.

    ``sources`` (a text is a gateway's base URL) are tried in order; each may use its share of what is left of
    ``timeout_s`` seconds. ``max_bytes`` caps what is downloaded and, separately, the files unpacked from it. Verified
    blocks of a fetch that fails, or is killed, stay in ``keep``, and the next one there goes on from them. Unreachable
    if there is no verified copy to be had, Conflict if ``into`` exists.
    """
    root = Cid.parse(cid)
    if into.exists():
        raise Conflict(f"{into} exists already.", "Choose a folder that does not exist yet.")
    into.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(into) as work, kept_in(keep or work, root) as kept:
        unpacked = work / "unpacked"
        _from_each(kept, sources, unpacked, max_bytes, timeout_s, progress)
        unpacked.rename(into)
        kept.forget()
    return into


def _from_each(
    kept: Kept,
    sources: Sequence[str | Source],
    unpacked: Path,
    max_bytes: int,
    timeout_s: float,
    progress: Progress | None,
) -> None:
    """Bring what is missing from whoever has it, and unpack it; a stalled source uses up its own share of time only."""
    deadline = time.monotonic() + timeout_s
    reasons = []
    for index, given in enumerate(sources):
        source = Gateway(given) if isinstance(given, str) else given
        share = (deadline - time.monotonic()) / (len(sources) - index)
        if share <= 0:
            reasons.append(f"{source.name}: no time left")
            continue
        try:
            _Fetch(kept, source, max_bytes, time.monotonic() + share, progress).complete()
            shutil.rmtree(unpacked, ignore_errors=True)
            _unpack(kept.root, kept.get, unpacked, max_bytes)
            return
        except CoterieError as error:
            reasons.append(f"{source.name}: {error}")
    raise _nowhere(str(kept.root), reasons)


class _Fetch:
    """What one source brings within its time."""

    def __init__(self, kept: Kept, source: Source, max_bytes: int, deadline: float, progress: Progress | None) -> None:
        self._kept = kept
        self._source = source
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._progress = progress

    def complete(self) -> None:
        """Until nothing is missing. Unreachable with all that went wrong."""
        told: list[str] = []
        while missing := self._kept.missing():
            before = len(self._kept)
            try:
                for cid in missing:
                    self._bring(cid)
            except CoterieError as error:
                told.append(str(error))
                goes_on = isinstance(error, CutOff | Unreachable) and len(self._kept) > before
                if not goes_on or self._left() <= 0:
                    raise Unreachable(" Asked again: ".join(told[:1] + told[1:][-2:])) from error

    def _bring(self, cid: Cid) -> None:
        room = self._max_bytes - self._kept.size
        if cid.codec != DAG_PB:
            data = self._source.block(cid, timeout_s=self._left())
            if len(data) > room:
                raise BadInput(f"it sent more than the {self._max_bytes} bytes that are allowed")
            self._kept.add(Block(cid, data))
            if self._progress:
                self._progress(self._kept.size)
            return
        broken_off: Unreachable | None = None
        with self._kept.incoming.open("wb") as file:
            try:
                self._source.car(cid, file, max_bytes=room, timeout_s=self._left(), progress=self._shown())
            except Unreachable as error:
                broken_off = error  # what came before may be good
        car = self._kept.take_incoming(room)
        if problem := broken_off or car.cut:
            raise problem
        if still := self._kept.missing(cid):
            raise CutOff(f"The CAR is incomplete: block {still[0]} is missing.")

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _shown(self) -> Progress | None:
        show, there = self._progress, self._kept.size
        return (lambda received: show(there + received)) if show else None


def fetch_file(cid_path: str, gateways: Sequence[str], max_bytes: int, timeout_s: float) -> bytes:
    """The bytes of one file, ``"cid"`` or ``"cid/a/b"`` (decoded, no leading slash), verified from the CID on.

    NotFound if a verified directory lacks the name; Unreachable if no gateway gave a verified copy.
    """
    cid, _, path = cid_path.partition("/")
    root = Cid.parse(cid)
    names = split_path(path) if path else ()

    def read(car: Car) -> bytes:
        target = trail(root, path, car.get)[-1]
        return b"".join(read_file(target, car.get, max_bytes=max_bytes))

    def url(gateway: str) -> str:
        return car_url(gateway, root, names, scope="entity")

    return _from_any(gateways, url, "/".join((str(root), *names)), max_bytes + _PATH_BLOCKS_BYTES, timeout_s, read)


def _from_any(
    gateways: Sequence[str],
    url: Callable[[str], str],
    what: str,
    max_bytes: int,
    timeout_s: float,
    use: Callable[[Car], T],
) -> T:
    """``use`` of the first CAR that it accepts; a stalled gateway uses up its own share of the time only."""
    deadline = time.monotonic() + timeout_s
    reasons = []
    for index, gateway in enumerate(gateways):
        share = (deadline - time.monotonic()) / (len(gateways) - index)
        if share <= 0:
            reasons.append(f"{gateway}: no time left")
            continue
        try:
            with tempfile.TemporaryFile() as file:
                download(url(gateway), file, max_bytes=max_bytes, timeout_s=share)
                file.seek(0)
                return use(Car(file, max_bytes))
        except NotFound:
            # Read from verified directories, so every honest gateway would show the same.
            raise
        except CoterieError as error:
            reasons.append(f"{gateway}: {error}")
    raise _nowhere(what, reasons)


def _nowhere(what: str, reasons: Sequence[str]) -> Unreachable:
    return Unreachable(
        f"No gateway gave a verified copy of /ipfs/{what}. " + " | ".join(reasons or ["none was named"]),
        "Try again later or name another gateway.",
    )


def _unpack(root: Cid, get: Get, into: Path, max_bytes: int) -> None:
    """Write the directory ``root`` to the new folder ``into``, at most ``max_bytes`` of files in all."""
    left = max_bytes
    for path, cid, is_dir in walk(root, get):
        target = into.joinpath(*_local_names(path))
        if is_dir:
            target.mkdir()
            continue
        if not path:
            raise BadInput(f"{root} is a single file, not a release.")
        # "x": two names that are one on this file system (letter case, Unicode forms) must not overwrite each other.
        with target.open("xb") as file:
            for piece in read_file(cid, get, max_bytes=left):
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
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(OSError):  # what was killed leaves its folder; a live one's is younger
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(left)
    work = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
