"""The local pin: a folder with one CAR file per release, and an index of the blocks in them.

The CAR files are the truth. The index (SQLite) says in which file, and where, a block lies; it may be lost or behind
at any time and is made again from the files. Several processes may use one folder at once.
"""

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.car import Car, read_car, write_car
from protocol.errors import BadInput, ContentMismatch, CoterieError, NotFound
from protocol.unixfs import Cid, Source, build_directory, read_file, subdag, trail, walk

_SCHEMA = """
CREATE TABLE IF NOT EXISTS car (root TEXT PRIMARY KEY, stamp TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS block (
    digest BLOB, root TEXT, at INTEGER, size INTEGER, PRIMARY KEY (digest, root)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS block_by_root ON block (root);
"""
_ABANDONED_AFTER_S = 3600.0


@dataclass(frozen=True)
class ReadBack:
    """What ``verify`` found on the disk, complete and right: distinct blocks, files, and the files' bytes in all."""

    blocks: int
    files: int
    file_bytes: int


class CarStore:
    """CAR files in ``folder``, which is made if need be. Safe to open again after a kill at any point."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._catch_up()

    def put(self, files: Mapping[str, Source]) -> Cid:
        """Keep a directory of ``files`` (POSIX path -> bytes or a file's Path) and return its CID.

        When this returns, the CAR is on the disk under its name; before, there is no trace of it that counts.
        Putting the same files again writes the CAR anew, which also mends a damaged one.
        """
        root, blocks = build_directory(files)
        part = self._folder / f"{root}.{secrets.token_hex(4)}.part"
        try:
            with part.open("xb") as stream:
                write_car(root, blocks, stream)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(self._path(root))
        finally:
            part.unlink(missing_ok=True)
        _fsync_folder(self._folder)
        self._index(str(root))
        return root

    def car(self, cid: Cid) -> Path:
        """The CAR file whose root is ``cid``; NotFound if there is none."""
        path = self._path(cid)
        if not path.is_file():
            raise NotFound(f"{cid} is not in the store.")
        return path

    def block(self, cid: Cid) -> bytes:
        """Any block of any CAR here, checked. NotFound if no CAR has it, ContentMismatch if the disk has spoilt it."""
        places = self._places(cid)
        if not places and self._catch_up():
            places = self._places(cid)
        failure: CoterieError = NotFound(f"Block {cid} is not in the store.")
        for root, at, size in places:
            try:
                with (self._folder / f"{root}.car").open("rb") as stream:
                    stream.seek(at)
                    return cid.check(stream.read(size))
            except FileNotFoundError:
                continue
            except ContentMismatch as error:
                failure = error
        raise failure

    def verify(self, cid: Cid) -> ReadBack:
        """Read the CAR of ``cid`` back from the disk: every block hashed, every directory and file gone through.

        ContentMismatch for a wrong or missing block and for one too many, BadInput for a damaged CAR.
        """
        path = self.car(cid)
        with path.open("rb") as stream:
            car = Car(stream, path.stat().st_size)
            if car.roots != (cid,):
                raise ContentMismatch(f"The CAR file of {cid} names another root.")
            reached = {block.cid.digest for block in subdag(cid, car.get)}
            if len(car) != len(reached):
                raise ContentMismatch(f"The CAR file of {cid} holds blocks that do not belong to it.")
            files = [entry.cid for entry in walk(cid, car.get) if not entry.is_dir]
            file_bytes = sum(len(piece) for file in files for piece in read_file(file, car.get))
        return ReadBack(len(reached), len(files), file_bytes)

    def list(self) -> Sequence[Cid]:
        """The roots of all CARs here, sorted by their text."""
        return [Cid.parse(root) for root in sorted(self._stamps())]

    def resolve(self, root: Cid, path: str) -> Cid:
        """The CID of what ``path`` ("a/b.json", or "" for the root) names below ``root``; NotFound if nothing."""
        return trail(root, path, self.block)[-1]

    def read(self, root: Cid, path: str) -> Iterator[bytes]:
        """The bytes of the file ``path`` below ``root``, piece by piece, each checked."""
        return read_file(self.resolve(root, path), self.block)

    def _path(self, cid: Cid) -> Path:
        return self._folder / f"{cid}.car"

    def _stamps(self) -> dict[str, str]:
        """The roots on the disk, each with what changes when its file is written anew."""
        stats = {path.stem: path.stat() for path in self._folder.glob("*.car")}
        return {root: f"{stat.st_mtime_ns} {stat.st_size}" for root, stat in stats.items()}

    def _sweep(self) -> None:
        """Remove what killed writers left behind; a live one's file is younger."""
        for part in self._folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > _ABANDONED_AFTER_S:
                    part.unlink()

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """One transaction on the index, in a connection of its own: threads and processes share only the file."""
        connection = sqlite3.connect(self._folder / "index.sqlite", timeout=30)
        try:
            connection.executescript(_SCHEMA)
            with connection:
                yield connection
        finally:
            connection.close()

    def _places(self, cid: Cid) -> Sequence[tuple[str, int, int]]:
        with self._database() as database:
            return database.execute("SELECT root, at, size FROM block WHERE digest = ?", (cid.digest,)).fetchall()

    def _catch_up(self) -> bool:
        """Make the index agree with the files; true if it did not."""
        with self._database() as database:
            indexed = dict(database.execute("SELECT root, stamp FROM car").fetchall())
        on_disk = self._stamps()
        for root in indexed.keys() - on_disk.keys():
            self._replace_rows(root, None, [])
        for root, stamp in on_disk.items():
            if indexed.get(root) != stamp:
                self._index(root)
        return indexed != on_disk

    def _index(self, root: str) -> None:
        """Note where the blocks of one CAR are; of a damaged one, those before the damage."""
        stamp = self._stamps().get(root)
        rows: list[tuple[bytes, str, int, int]] = []
        # A damaged file must not keep the others from being served, nor be read again and again; `verify` tells of it.
        with contextlib.suppress(BadInput, ContentMismatch), (self._folder / f"{root}.car").open("rb") as stream:
            _, sections = read_car(stream, os.fstat(stream.fileno()).st_size)
            for section in sections:
                rows.append((section.cid.digest, root, section.offset, len(section.data)))
        self._replace_rows(root, stamp, rows)

    def _replace_rows(self, root: str, stamp: str | None, rows: Sequence[tuple[bytes, str, int, int]]) -> None:
        with self._database() as database:
            database.execute("DELETE FROM block WHERE root = ?", (root,))
            database.execute("DELETE FROM car WHERE root = ?", (root,))
            database.executemany("INSERT OR IGNORE INTO block VALUES (?, ?, ?, ?)", rows)
            if stamp:
                database.execute("INSERT INTO car VALUES (?, ?)", (root, stamp))


def _fsync_folder(folder: Path) -> None:
    """A rename is durable only once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
