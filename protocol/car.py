"""CARv1: a root's blocks in one stream, each behind its length and its CID.

Writing is deterministic; reading hashes every block before anyone sees it and gives up on the first thing that is
out of shape. The header is dag-cbor, of which exactly ``{"roots": [CID, …], "version": 1}`` is spoken here.

Spec: ipld.io/specs/transport/car/carv1.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from protocol.errors import BadInput, ContentMismatch
from protocol.unixfs import MAX_BLOCK_BYTES, Block, Cid, read_varint, varint

MAX_HEADER_BYTES = 1024
_MAX_SECTION_BYTES = MAX_BLOCK_BYTES + 36
_ROOTS = b"\xa2\x65roots"
_VERSION_1 = b"\x67version\x01"


class CutOff(BadInput):
    """The CAR ends in the middle: what came before is right, and the rest may be had elsewhere."""


@dataclass(frozen=True)
class Section(Block):
    """A block and where its bytes start in the CAR."""

    offset: int


def encode_car(root: Cid, blocks: Iterable[Block]) -> Iterator[bytes]:
    """The CAR, piece by piece: the header with one root, then each block as it comes."""
    # An array of one CID: tag 42 on a byte string that starts with multibase's identity byte 0.
    address = b"\x00" + bytes(root)
    header = _ROOTS + b"\x81\xd8\x2a\x58" + bytes([len(address)]) + address + _VERSION_1
    yield varint(len(header)) + header
    for block in blocks:
        yield encode_section(block)


def encode_section(block: Block) -> bytes:
    """One block as it stands in a CAR."""
    cid = bytes(block.cid)
    return varint(len(cid) + len(block.data)) + cid + block.data


def write_car(root: Cid, blocks: Iterable[Block], stream: BinaryIO) -> int:
    """Write the CAR to ``stream``; returns its length in bytes."""
    return sum(stream.write(piece) for piece in encode_car(root, blocks))


def read_car(stream: BinaryIO, max_bytes: int) -> tuple[tuple[Cid, ...], Iterator[Section]]:
    """The roots named in the header, and every block in order, its hash checked.

    Neither says that the blocks are complete or belong to a root: walk the DAG from the CID you asked for. BadInput
    for a stream that is malformed or longer than ``max_bytes``, its kind CutOff for one that ends in the middle;
    ContentMismatch for a wrong hash.
    """
    source = _Input(stream, max_bytes)
    size = source.varint(MAX_HEADER_BYTES)
    if size is None:
        raise CutOff("The CAR is empty.")
    return _roots(source.take(size)), _sections(source)


class Car:
    """A CAR in a seekable stream, read through and checked once on opening; then blocks by CID.

    Blocks are known by their hash alone, so a CID of version 0 finds what was stored under version 1.
    """

    def __init__(self, stream: BinaryIO, max_bytes: int, *, may_be_cut: bool = False) -> None:
        """Raises as ``read_car`` does; with ``may_be_cut`` an end in the middle is told by ``cut`` instead."""
        self._stream = stream
        self._places: dict[bytes, tuple[int, int]] = {}
        self.roots: tuple[Cid, ...] = ()
        self.cut: CutOff | None = None
        try:
            self.roots, sections = read_car(stream, max_bytes)
            for section in sections:
                self._places[section.cid.digest] = (section.offset, len(section.data))
        except CutOff as cut:
            if not may_be_cut:
                raise
            self.cut = cut

    def __len__(self) -> int:
        """The number of different blocks."""
        return len(self._places)

    def __contains__(self, cid: Cid) -> bool:
        return cid.digest in self._places

    def get(self, cid: Cid) -> bytes:
        """The block's bytes; ContentMismatch where the CAR lacks it, because then it is not what was asked for."""
        place = self._places.get(cid.digest)
        if place is None:
            raise ContentMismatch(f"The CAR is incomplete: block {cid} is missing.")
        self._stream.seek(place[0])
        return cid.check(self._stream.read(place[1]))


class _Input:
    """A stream that is read exactly and not beyond ``max_bytes``."""

    def __init__(self, stream: BinaryIO, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self.offset = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if self.offset + count > self._max_bytes:
            raise BadInput(f"The CAR is longer than the {self._max_bytes} bytes that are allowed.")
        parts = []
        missing = count
        while missing:
            part = self._stream.read(missing)
            if not part:
                raise CutOff(f"The CAR is cut off after {self.offset + count - missing} bytes.")
            parts.append(part)
            missing -= len(part)
        self.offset += count
        return b"".join(parts)

    def varint(self, limit: int) -> int | None:
        """The next length (1 to ``limit``), or None at the end of the stream."""
        first = self._stream.read(1)
        if not first:
            return None
        self.offset += 1
        encoded = first
        while encoded[-1] >= 0x80 and len(encoded) < 9:
            encoded += self.take(1)
        number, _ = read_varint(encoded, 0)
        if not 0 < number <= limit:
            raise BadInput(
                f"The CAR has a part of {number} bytes before offset {self.offset}; 1 to {limit} are allowed."
            )
        return number


def _sections(source: _Input) -> Iterator[Section]:
    while (size := source.varint(_MAX_SECTION_BYTES)) is not None:
        part = source.take(size)
        cid, start = Cid.read(part)
        yield Section(cid, cid.check(part[start:]), source.offset - size + start)


def _roots(header: bytes) -> tuple[Cid, ...]:
    """The CIDs in a dag-cbor header: canonical, so that "roots" comes first and every length has its shortest form."""
    start = len(_ROOTS) + 1
    count = header[start - 1] - 0x80 if len(header) >= start else -1
    if not header.startswith(_ROOTS) or not header.endswith(_VERSION_1) or not 0 <= count < 24:
        raise BadInput("This is not a CAR of version 1.")
    at = start
    roots = []
    for _ in range(count):
        if header[at : at + 3] != b"\xd8\x2a\x58" or header[at + 4 : at + 5] != b"\x00":
            raise BadInput("A root in the CAR's header is not a CID.")
        cid, end = Cid.read(header, at + 5)
        if end != at + 4 + header[at + 3]:
            raise BadInput("A root in the CAR's header is not a CID.")
        roots.append(cid)
        at = end
    if at != len(header) - len(_VERSION_1):
        raise BadInput("This is not a CAR of version 1.")
    return tuple(roots)
