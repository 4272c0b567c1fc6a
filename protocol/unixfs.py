"""Content addresses: CIDs and UnixFS DAGs, built after IPIP-499's profile ``unixfs-v1-2025`` and read with suspicion.

CIDv1, sha2-256, raw leaves, chunks of 1 MiB, a balanced tree of at most 1024 links a node, directories as one dag-pb
block with their links sorted by name bytes. Whoever adds the same files gets the same CID, in Kubo and Helia too.
Reading checks every block against its CID and takes DAGs of other profiles as well (CIDv0, inline leaves), because
the metadata of NFTs is old.

Specs: multiformats CID, IPLD dag-pb, UnixFS (specs.ipfs.tech/unixfs), IPIP-0499.
"""

import base64
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from protocol.errors import BadInput, ContentMismatch, NotFound

RAW = 0x55
DAG_PB = 0x70
CODECS = {RAW: "raw", DAG_PB: "dag-pb"}
_SHA2_256 = b"\x12\x20"

MAX_BLOCK_BYTES = 2 * 1024 * 1024
"""No block is larger: IPFS nodes do not carry more than 2 MiB between each other."""
MAX_DIRECTORY_BYTES = 256 * 1024
"""Above this the profile shards a directory (HAMT), which no release needs."""
MAX_DEPTH = 32
"""Folders in folders, and levels of one file's tree."""
MAX_ENTRIES = 100_000
MAX_FILE_BYTES = 64 * 1024**3
MAX_NAME_BYTES = 255

Source = bytes | Path
Get = Callable[["Cid"], bytes]


# Varints (unsigned LEB128, as multiformats and protobuf share them) ------------------------------------------------


def varint(number: int) -> bytes:
    """``number`` >= 0 as unsigned LEB128: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at offset ``at`` and the offset behind it. BadInput past 9 bytes (63 bits) or past the end."""
    number = 0
    for index, byte in enumerate(data[at : at + 9]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, at + index + 1
    raise BadInput("A number in the binary data is cut off or longer than 9 bytes.")


# CIDs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cid:
    """A content address: how to read the bytes (``codec``) and their sha2-256 (``digest``, 32 bytes).

    ``str(Cid.parse(s)) == s`` for every text that is accepted: version 1 in lower-case base32 (``bafy…``, ``bafk…``),
    version 0 in base58 (``Qm…``). Everything made here is version 1; version 0 is only read.
    """

    codec: int
    digest: bytes
    version: int = 1

    def __post_init__(self) -> None:
        if self.codec not in CODECS or len(self.digest) != 32 or self.version not in (0, 1):
            raise BadInput("A CID here is raw or dag-pb, version 0 or 1, with a sha2-256 of 32 bytes.")
        if self.version == 0 and self.codec != DAG_PB:
            raise BadInput("A CID of version 0 is always dag-pb.")

    @classmethod
    def of(cls, codec: int, data: bytes) -> "Cid":
        """The address of ``data``."""
        return cls(codec, sha256(data).digest())

    @classmethod
    def parse(cls, text: str) -> "Cid":
        """From text. BadInput for other bases, codecs and hash functions, and for text that is not canonical."""
        try:
            data = _base58_decode(text) if text.startswith("Qm") else _base32_decode(text)
            cid, end = cls.read(data)
        except ValueError as error:
            raise _not_a_cid(text) from error
        if end != len(data) or str(cid) != text:
            raise _not_a_cid(text)
        return cid

    @classmethod
    def read(cls, data: bytes, at: int = 0) -> tuple["Cid", int]:
        """The binary CID at offset ``at`` of ``data``, and the offset behind it."""
        if data[at : at + 2] == _SHA2_256 and len(data) >= at + 34:
            return cls(DAG_PB, data[at + 2 : at + 34], version=0), at + 34
        known_form = data[at : at + 1] == b"\x01" and data[at + 2 : at + 4] == _SHA2_256 and len(data) >= at + 36
        if not known_form or data[at + 1] not in CODECS:
            raise BadInput("A CID in the binary data is not raw or dag-pb with sha2-256.")
        return cls(data[at + 1], data[at + 4 : at + 36]), at + 36

    def __bytes__(self) -> bytes:
        multihash = _SHA2_256 + self.digest
        return multihash if self.version == 0 else bytes([1, self.codec]) + multihash

    def __str__(self) -> str:
        if self.version == 0:
            return _base58_encode(bytes(self))
        return "b" + base64.b32encode(bytes(self)).decode().rstrip("=").lower()

    def check(self, data: bytes) -> bytes:
        """``data`` itself, if it has this address; ContentMismatch if not."""
        if sha256(data).digest() != self.digest:
            raise ContentMismatch(
                f"The bytes given for block {self} have another hash.", "Fetch it from another source."
            )
        return data


@dataclass(frozen=True)
class Block:
    """Bytes and their address."""

    cid: Cid
    data: bytes


def _not_a_cid(text: str) -> BadInput:
    return BadInput(
        f"{text[:80]!r} is not a CID that is read here.",
        "It starts with bafy, bafk or Qm, in the letters it was published in.",
    )


def _base32_decode(text: str) -> bytes:
    if not text.startswith("b") or len(text) > 80:
        raise _not_a_cid(text)
    digits = text[1:].upper()
    return base64.b32decode(digits + "=" * (-len(digits) % 8))


_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def _base58_decode(text: str) -> bytes:
    if len(text) != 46:
        raise _not_a_cid(text)
    number = 0
    for letter in text:
        number = number * 58 + _BASE58.index(letter)
    return number.to_bytes(34, "big")


def _base58_encode(data: bytes) -> str:
    # A version 0 CID starts with byte 0x12, so base58's rule for leading zero bytes never applies.
    number = int.from_bytes(data, "big")
    letters = ""
    while number:
        number, rest = divmod(number, 58)
        letters = _BASE58[rest] + letters
    return letters


# Building ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """The two numbers that shape a file's tree. Only the default makes CIDs for others to see."""

    chunk_bytes: int = 1024 * 1024
    links: int = 1024


UNIXFS_V1_2025 = Profile()


@dataclass(frozen=True)
class _Node:
    """A block that is known but, for a leaf, not held: ``load`` gives its bytes when they are wanted."""

    cid: Cid
    load: Callable[[], bytes]
    children: tuple["_Node", ...]
    file_bytes: int
    dag_bytes: int
    """This block and everything below it: dag-pb calls it Tsize."""


Folder = dict[str, "Folder | Source"]


def build_file(source: Source, profile: Profile = UNIXFS_V1_2025) -> tuple[Cid, Iterator[Block]]:
    """One file's CID and its blocks, root first (depth first, each once). A Path is read twice, chunk by chunk."""
    root = _file(source, profile)
    return root.cid, _depth_first(root)


def build_directory(files: Mapping[str, Source], profile: Profile = UNIXFS_V1_2025) -> tuple[Cid, Iterator[Block]]:
    """The CID of a directory of ``files`` (POSIX path -> bytes or a file's Path) and its blocks, root first.

    Independent of the mapping's order. BadInput for no files at all, absolute paths, ``..``, empty or hostile names,
    and a path that is both file and folder. The blocks raise ContentMismatch if a file changes while they are read.
    """
    if not files:
        raise BadInput("A directory needs at least one file.")
    root = _directory(_folders(files), profile)
    return root.cid, _depth_first(root)


def _file(source: Source, profile: Profile) -> _Node:
    level = [_leaf(source, at, chunk) for at, chunk in _chunks(source, profile.chunk_bytes)]
    while len(level) > 1:
        level = [_file_node(tuple(level[at : at + profile.links])) for at in range(0, len(level), profile.links)]
    return level[0]


def _chunks(source: Source, size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of each chunk; an empty file is one empty chunk."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        at = 0
        chunk = stream.read(size)
        yield at, chunk
        while len(chunk) == size and (chunk := stream.read(size)):
            at += size
            yield at, chunk


def _leaf(source: Source, at: int, chunk: bytes) -> _Node:
    size = len(chunk)

    def load() -> bytes:
        if isinstance(source, bytes):
            return source[at : at + size]
        with source.open("rb") as stream:
            stream.seek(at)
            return stream.read(size)

    return _Node(Cid.of(RAW, chunk), load, (), size, size)


def _file_node(children: tuple[_Node, ...]) -> _Node:
    size = sum(child.file_bytes for child in children)
    unixfs = b"\x08\x02" + b"\x18" + varint(size) + b"".join(b"\x20" + varint(c.file_bytes) for c in children)
    return _dag_pb([(b"", child) for child in children], unixfs, size)


def _directory(folder: Folder, profile: Profile) -> _Node:
    children = [
        (name.encode(), _directory(item, profile) if isinstance(item, dict) else _file(item, profile))
        for name, item in folder.items()
    ]
    node = _dag_pb(sorted(children, key=lambda child: child[0]), b"\x08\x01", 0)
    if len(node.load()) > MAX_DIRECTORY_BYTES:
        raise BadInput(
            f"A folder with {len(children)} entries does not fit one block of {MAX_DIRECTORY_BYTES} bytes.",
            "Spread the files over sub-folders.",
        )
    return node


def _dag_pb(links: list[tuple[bytes, _Node]], unixfs: bytes, file_bytes: int) -> _Node:
    """One dag-pb block: PBNode with Links (field 2) before Data (field 1), each PBLink as Hash, Name, Tsize."""
    parts = [
        _delimited(2, _delimited(1, bytes(child.cid)) + _delimited(2, name) + b"\x18" + varint(child.dag_bytes))
        for name, child in links
    ]
    data = b"".join(parts) + _delimited(1, unixfs)
    children = tuple(child for _, child in links)
    below = sum(child.dag_bytes for child in children)
    return _Node(Cid.of(DAG_PB, data), lambda: data, children, file_bytes, len(data) + below)


def _delimited(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + varint(len(value)) + value


def _folders(files: Mapping[str, Source]) -> Folder:
    """Paths as nested folders."""
    root: Folder = {}
    for path, source in files.items():
        *parents, name = split_path(path)
        folder = root
        for parent in parents:
            below = folder.setdefault(parent, {})
            if not isinstance(below, dict):
                raise BadInput(f"{path!r} needs a folder where there is a file already.")
            folder = below
        if name in folder:
            raise BadInput(f"{path!r} is both a file and a folder.")
        folder[name] = source
    return root


def _depth_first(root: _Node) -> Iterator[Block]:
    seen: set[Cid] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node.cid in seen:
            continue
        seen.add(node.cid)
        yield Block(node.cid, node.cid.check(node.load()))
        stack.extend(reversed(node.children))


# Names -------------------------------------------------------------------------------------------------------------


def split_path(path: str) -> tuple[str, ...]:
    """The names along a relative POSIX path. BadInput if one of them could leave its folder or harm a terminal."""
    names = tuple(path.split("/"))
    if len(names) > MAX_DEPTH:
        raise BadInput(f"The path {path[:80]!r} has more than {MAX_DEPTH} levels.")
    for name in names:
        check_name(name)
    return names


def check_name(name: str) -> str:
    """``name``, if it is safe as a file's name on any member's disk; BadInput if not."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise BadInput(f"The file name {name!r} is not valid Unicode.") from error
    hostile = name in ("", ".", "..") or any(letter in "/\\\x7f" or letter < " " for letter in name)
    if hostile or size > MAX_NAME_BYTES:
        raise BadInput(
            f"The file name {name[:80]!r} is not allowed.",
            f"Names have 1 to {MAX_NAME_BYTES} bytes, without slashes, backslashes or control characters.",
        )
    return name


# Reading -----------------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One thing in a directory tree; ``path`` is relative to the root, whose own path is empty."""

    path: str
    cid: Cid
    is_dir: bool


@dataclass(frozen=True)
class _Link:
    cid: Cid
    name: bytes


@dataclass(frozen=True)
class _Unixfs:
    """A block as UnixFS sees it. For a file: ``inline`` bytes, then ``sizes[i]`` bytes below ``links[i]``."""

    is_dir: bool
    links: tuple[_Link, ...]
    inline: bytes
    sizes: tuple[int, ...]


def load(cid: Cid, get: Get) -> bytes:
    """The block's bytes, checked. ContentMismatch if ``get`` gives others, BadInput if they are too many."""
    data = cid.check(get(cid))
    if len(data) > MAX_BLOCK_BYTES:
        raise BadInput(f"Block {cid} is larger than {MAX_BLOCK_BYTES} bytes.")
    return data


def read_file(cid: Cid, get: Get, *, max_bytes: int = MAX_FILE_BYTES) -> Iterator[bytes]:
    """The file's bytes, piece by piece; no piece is given out before its block is checked.

    ``get`` gives a block's bytes by CID and raises where it has none. BadInput for a directory, a tree whose declared
    sizes do not add up, and for more than ``max_bytes`` (before the first piece).
    """
    node = _unixfs(cid, load(cid, get))
    size = len(node.inline) + sum(node.sizes)
    if node.is_dir:
        raise BadInput(f"{cid} is a directory, not a file.")
    if size > max_bytes:
        raise BadInput(f"The file {cid} has {size} bytes; {max_bytes} are allowed.")
    yield from _pieces(node, get, MAX_DEPTH)


def _pieces(node: _Unixfs, get: Get, depth: int) -> Iterator[bytes]:
    # Every link must stand for at least one byte, so the work is bounded by the file's size.
    if node.inline:
        yield node.inline
    if node.links and not depth:
        raise BadInput(f"A file's tree is deeper than {MAX_DEPTH} levels.")
    for link, size in zip(node.links, node.sizes, strict=True):
        child = _unixfs(link.cid, load(link.cid, get))
        if child.is_dir or len(child.inline) + sum(child.sizes) != size:
            raise BadInput(f"Block {link.cid} does not hold the {size} bytes of the file that its parent declares.")
        yield from _pieces(child, get, depth - 1)


def walk(root: Cid, get: Get, *, max_entries: int = MAX_ENTRIES) -> Iterator[Entry]:
    """Every directory and file below ``root``, folders before their content; the first entry is ``root`` itself.

    Blocks of directories, and the roots of files of several blocks, are checked; the bytes of files are
    ``read_file``'s to check. BadInput for hostile or repeated names and beyond ``max_entries`` or MAX_DEPTH.
    """
    left = max_entries
    stack = [("", root)]
    while stack:
        path, cid = stack.pop()
        if cid.codec == RAW:
            yield Entry(path, cid, is_dir=False)
            continue
        node = _unixfs(cid, load(cid, get))
        yield Entry(path, cid, node.is_dir)
        if not node.is_dir:
            continue
        entries = _entries(cid, node)
        left -= len(entries)
        if left < 0:
            raise BadInput(f"The directory {root} has more than {max_entries} entries.")
        below = [(f"{path}/{name}" if path else name, child) for name, child in entries.items()]
        if below and below[0][0].count("/") >= MAX_DEPTH:
            raise BadInput(f"The directory {root} is nested deeper than {MAX_DEPTH} levels.")
        stack.extend(reversed(below))


def trail(root: Cid, path: str, get: Get) -> tuple[Cid, ...]:
    """The CIDs from ``root`` to what ``path`` names ("" names the root itself), both included.

    NotFound is a proof: the checked directory does not have that name.
    """
    cids = [root]
    for name in split_path(path) if path else ():
        cid = cids[-1]
        node = _unixfs(cid, load(cid, get))
        entries = _entries(cid, node) if node.is_dir else {}
        if name not in entries:
            raise NotFound(f"There is no {path!r} in {root}.")
        cids.append(entries[name])
    return tuple(cids)


def subdag(root: Cid, get: Get) -> Iterator[Block]:
    """Every block reachable from ``root``, checked, depth first, each once."""
    seen: set[Cid] = set()
    stack = [root]
    while stack:
        cid = stack.pop()
        if cid in seen:
            continue
        seen.add(cid)
        block = Block(cid, load(cid, get))
        yield block
        stack.extend(reversed(children(cid, block.data)))


def children(cid: Cid, data: bytes) -> tuple[Cid, ...]:
    """What a checked block links to, in its order; nothing for a raw one. BadInput if it is no dag-pb."""
    if cid.codec == RAW:
        return ()
    links, _ = _dag_pb_fields(cid, data)
    return tuple(link.cid for link in links)


def _entries(cid: Cid, node: _Unixfs) -> dict[str, Cid]:
    """A directory's names and what they lead to."""
    entries: dict[str, Cid] = {}
    for link in node.links:
        try:
            name = check_name(link.name.decode())
        except UnicodeDecodeError as error:
            raise BadInput(f"The directory {cid} has a name that is not UTF-8.") from error
        if name in entries:
            raise BadInput(f"The directory {cid} has the name {name!r} twice.")
        entries[name] = link.cid
    return entries


_KINDS = {0: "raw", 1: "directory", 2: "file", 3: "metadata", 4: "symlink", 5: "sharded directory"}


def _unixfs(cid: Cid, data: bytes) -> _Unixfs:
    """A checked block, decoded. BadInput for what is neither a file nor a plain directory."""
    if cid.codec == RAW:
        return _Unixfs(False, (), data, ())
    links, message = _dag_pb_fields(cid, data)
    kind, inline, declared, sizes = -1, b"", None, []
    for field, value in _fields(cid, message):
        match field, value:
            case 1, int():
                kind = value
            case 2, bytes():
                inline = value
            case 3, int():
                declared = value
            case 4, int():
                sizes.append(value)
    if kind == 1:
        return _Unixfs(True, links, b"", ())
    if kind not in (0, 2):
        raise BadInput(
            f"Block {cid} is a {_KINDS.get(kind, 'thing of unknown kind')}; only files and plain directories are read."
        )
    total = len(inline) + sum(sizes)
    if len(sizes) != len(links) or not all(sizes) or declared not in (None, total):
        raise BadInput(f"The sizes that the file node {cid} declares do not add up.")
    return _Unixfs(False, links, inline, tuple(sizes))


def _dag_pb_fields(cid: Cid, data: bytes) -> tuple[tuple[_Link, ...], bytes]:
    """The links and the UnixFS message of one dag-pb block."""
    links: list[_Link] = []
    message = b""
    for field, value in _fields(cid, data):
        match field, value:
            case 1, bytes():
                message = value
            case 2, bytes():
                links.append(_link(cid, value))
            case _:
                raise BadInput(f"Block {cid} is not dag-pb: it has an unknown field.")
    return tuple(links), message


def _link(parent: Cid, data: bytes) -> _Link:
    cid: Cid | None = None
    name = b""
    for field, value in _fields(parent, data):
        match field, value:
            case 1, bytes():
                cid, end = Cid.read(value)
                if end != len(value):
                    raise BadInput(f"A link in block {parent} is longer than its CID.")
            case 2, bytes():
                name = value
    if cid is None:
        raise BadInput(f"A link in block {parent} leads nowhere.")
    return _Link(cid, name)


def _fields(cid: Cid, data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a protobuf message: varints as int, length-delimited ones as bytes."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, at = read_varint(data, at)
        if key & 7 == 0:
            yield key >> 3, number
        elif key & 7 == 2 and at + number <= len(data):
            yield key >> 3, data[at : at + number]
            at += number
        else:
            raise BadInput(f"Block {cid} is not the protobuf that dag-pb and UnixFS are made of.")
