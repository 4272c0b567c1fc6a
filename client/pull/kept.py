"""Verified blocks of one DAG on their way here: a CAR that grows, and that outlives a cut, a restart and a kill.

Only blocks that belong to the DAG are kept, each hashed, so whoever sent one does not matter and what is kept never has
to be thrown away for what comes after it.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.car import Car, encode_car, encode_section, read_car
from protocol.errors import BadInput, Conflict, ContentMismatch
from protocol.unixfs import DAG_PB, Block, Cid, Get, children

MAX_KEPT_BYTES = 1 << 50
MAX_MISSING = 1_000_000
"""Blocks of 1 MiB that a terabyte has. A few blocks can link to many more that nobody has."""


class Kept:
    """The blocks of ``root`` in ``file``, which is made if need be and is this object's alone."""

    def __init__(self, root: Cid, file: Path) -> None:
        self.root = root
        self.incoming = file.with_suffix(".incoming")
        """Where a download is to be written, for ``take_incoming``."""
        self._file = file
        self._open()
        if self.incoming.exists():
            with contextlib.suppress(BadInput, ContentMismatch):
                self.take_incoming(MAX_KEPT_BYTES)  # a kill left it

    def __len__(self) -> int:
        """The number of different blocks."""
        return len(self._places)

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self._end if self._places else 0

    def get(self, cid: Cid) -> bytes:
        """The block's bytes, checked; ContentMismatch where it is not here."""
        place = self._places.get(cid.digest)
        if place is None:
            raise ContentMismatch(f"Block {cid} has not come yet.")
        self._stream.seek(place[0])
        return cid.check(self._stream.read(place[1]))

    def missing(self, below: Cid | None = None) -> list[Cid]:
        """What is not here and is linked to from what is, in the DAG's order; the root if nothing is here.

        Args:
            below: from this CID on down, instead of from the root.

        Raises:
            BadInput: more than MAX_MISSING.
        """
        found: list[Cid] = []
        for cid in self._absent(below or self.root):
            found.append(cid)
            if len(found) > MAX_MISSING:
                raise BadInput(
                    f"{self.root} links to more than {MAX_MISSING} blocks.", "It is no release; check the CID."
                )
        return found

    def add(self, block: Block) -> None:
        """Keep a block; ContentMismatch if it is not what it is called."""
        block.cid.check(block.data)
        section = encode_section(block)
        self._stream.seek(self._end)
        self._stream.write(section)
        self._stream.flush()
        self._end += len(section)
        self._places[block.cid.digest] = (self._end - len(block.data), len(block.data))

    def take_incoming(self, max_bytes: int) -> Car:
        """Keep what belongs here of the CAR in ``incoming``, which may be cut off and is used up.

        Raises:
            BadInput, ContentMismatch: it is wrong in any other way; then nothing of it is kept.
        """
        try:
            with self.incoming.open("rb") as stream:
                car = Car(stream, max_bytes, may_be_cut=True)
                wanted = [cid for cid in self._absent(self.root, car) if cid in car]
                if self._places or len(wanted) < len(car):
                    for cid in wanted:
                        self.add(Block(cid, car.get(cid)))
                elif wanted:
                    self._stream.close()
                    self.incoming.replace(self._file)  # all of it belongs here: no need to copy it
                    self._open()
            return car
        finally:
            self.incoming.unlink(missing_ok=True)

    def close(self) -> None:
        self._stream.close()

    def forget(self) -> None:
        """Remove everything."""
        self.close()
        for suffix in (".car", ".incoming", ".lock"):
            self._file.with_suffix(suffix).unlink(missing_ok=True)

    def _open(self) -> None:
        """Go through what is there; what a kill or the disk has spoilt, and all behind it, is cut away."""
        self._places: dict[bytes, tuple[int, int]] = {}
        self._end = 0
        self._file.touch()
        self._stream = self._file.open("r+b")
        with contextlib.suppress(BadInput, ContentMismatch):
            _, sections = read_car(self._stream, MAX_KEPT_BYTES)
            for section in sections:
                self._places[section.cid.digest] = (section.offset, len(section.data))
                self._end = section.offset + len(section.data)
        self._stream.truncate(self._end)
        if not self._end:
            self._stream.seek(0)
            self._end = self._stream.write(b"".join(encode_car(self.root, ())))

    def _absent(self, top: Cid, car: Car | None = None) -> Iterator[Cid]:
        """What is not here and is linked to, from ``top`` down, by what is here or in ``car``; each once."""
        seen: set[bytes] = set()
        stack = [top]
        while stack:
            cid = stack.pop()
            if cid.digest in seen:
                continue
            seen.add(cid.digest)
            if cid.digest in self._places:
                stack.extend(_links(cid, self.get))
                continue
            yield cid
            if car and cid in car:
                stack.extend(_links(cid, car.get))


def _links(cid: Cid, get: Get) -> Iterator[Cid]:
    """The last one first, as a stack wants them; a raw block has none and is not read for it."""
    return reversed(children(cid, get(cid))) if cid.codec == DAG_PB else iter(())


@contextmanager
def kept_in(folder: Path, root: Cid) -> Iterator[Kept]:
    """The blocks of ``root`` that are kept in ``folder``; Conflict while somebody else fetches it there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{root}.lock").open("w") as held:
        try:
            # The lock is the kernel's: it ends with the process, however that ends.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"{root} is being fetched already.", "Wait for it, or end the other one.") from error
        kept = Kept(root, folder / f"{root}.car")
        try:
            yield kept
        finally:
            kept.close() if len(kept) else kept.forget()
