"""Pulling that is cut, stalled or killed goes on where it ended; and from other sources than gateways."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server

from client.pull.fetch import fetch_release
from client.pull.kept import kept_in
from client.pull.sources import CarFolder, Node
from coordinator.releases.gateway import CAR_TYPE, RAW_TYPE, respond
from coordinator.releases.store import CarStore
from deploy.ipfs.node import IpfsNode
from ipfs.kubo import Kubo
from protocol.car import encode_car
from protocol.errors import BadInput, Conflict, ContentMismatch, Unreachable
from protocol.unixfs import RAW, Block, Cid, build_directory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FILES = {
    "manifest.json": b'{"round": 1}',
    "weights/adapter.bin": random.Random(7).randbytes(8 * 1024 * 1024),
    "家/Дом.txt": b"home",
}
SIZE = sum(map(len, FILES.values()))
LIMITS = {"max_bytes": 20_000_000, "timeout_s": 30.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> CarStore:
    return CarStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def root(store: CarStore) -> Cid:
    return store.put(FILES)


class Counted:
    """An honest gateway that counts the bytes it sends, and may break off every answer after some of them."""

    def __init__(self, store: CarStore, breaks_after: int | None = None, pause_s: float = 0.0) -> None:
        self._store = store
        self.breaks_after = breaks_after
        self.pause_s = pause_s
        self.sent = 0

    def __call__(self, path: str, query: dict[str, list[str]]):
        _, _, cid, *rest = path.split("/")
        status, kind, body = respond(self._store, cid, "/".join(rest), query["format"][0])
        return status, {"Content-Type": kind}, self._pieces([body] if isinstance(body, bytes) else body)

    def _pieces(self, body) -> Iterator[bytes]:
        left = self.breaks_after
        for piece in body:
            if left is not None and len(piece) > left:
                yield piece[:left]
                raise ConnectionError
            left = left - len(piece) if left is not None else None
            self.sent += len(piece)
            time.sleep(self.pause_s)
            yield piece


def content_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_gateway_that_breaks_off_is_asked_for_the_rest_alone(store, root, tmp_path):
    gateway = Counted(store, breaks_after=3_000_000)
    with Server(gateway) as server:
        assert content_of(fetch_release(str(root), [server.url], tmp_path / "pulled", **LIMITS)) == FILES
    assert gateway.sent < SIZE * 1.1, "no block came twice"
    assert any("format=raw" in path for path, _ in server.asked)


def test_the_next_gateway_is_asked_for_the_rest_alone(store, root, tmp_path):
    first, second = Counted(store, breaks_after=3_000_000), Counted(store)

    def only_cars(path, query):
        return first(path, query) if query["format"] == ["car"] else (404, {}, b"")

    with Server(only_cars) as one, Server(second) as two:
        assert content_of(fetch_release(str(root), [one.url, two.url], tmp_path / "pulled", **LIMITS)) == FILES
    assert second.sent < SIZE * 0.9


def test_what_came_before_a_failure_is_kept_for_the_next_time(store, root, tmp_path):
    keep, gone = tmp_path / "partial", Counted(store, breaks_after=3_000_000)

    def dies(path, query):
        return gone(path, query) if query["format"] == ["car"] else (500, {}, b"")

    with Server(dies) as server, pytest.raises(Unreachable, match="Asked again: it answered 500"):
        fetch_release(str(root), [server.url], tmp_path / "pulled", keep=keep, **LIMITS)
    assert not (tmp_path / "pulled").exists() and not list(tmp_path.glob(".pulled*"))
    whole, seen = Counted(store), []
    with Server(whole) as server:
        fetch_release(str(root), [server.url], tmp_path / "pulled", keep=keep, progress=seen.append, **LIMITS)
    assert content_of(tmp_path / "pulled") == FILES
    assert whole.sent < SIZE * 0.8 and seen[0] > 2_000_000, "progress goes on too"
    assert list(keep.iterdir()) == []


def test_what_a_liar_sent_is_not_kept(store, root, tmp_path):
    forged = store.car(root).read_bytes().replace(b"home", b"hole")
    with Server(lambda *_: (200, {"Content-Type": CAR_TYPE}, forged)) as liar, pytest.raises(Unreachable, match="hash"):
        fetch_release(str(root), [liar.url], tmp_path / "pulled", keep=tmp_path / "partial", **LIMITS)
    with kept_in(tmp_path / "partial", root) as kept:
        assert len(kept) == 0 and kept.missing() == [root]


def test_a_raw_block_that_is_another_is_refused_and_the_next_gateway_asked(store, root, tmp_path):
    def lies(path, query):
        if query["format"] == ["raw"]:
            return 200, {"Content-Type": RAW_TYPE}, b"something else"
        return Counted(store, breaks_after=3_000_000)(path, query)

    with Server(lies) as liar, Server(Counted(store)) as honest:
        assert content_of(fetch_release(str(root), [liar.url, honest.url], tmp_path / "pulled", **LIMITS)) == FILES
        assert sum("format=raw" in path for path, _ in liar.asked) == 1, "a liar is asked nothing more"


def test_blocks_that_do_not_belong_are_never_kept(store, root, tmp_path):
    """A source that pads and breaks off would fill the disk and eat the bytes that others may send."""
    stranger = Block(Cid.of(RAW, b"x" * 1_000_000), b"x" * 1_000_000)
    _, blocks = build_directory(FILES)
    with kept_in(tmp_path, root) as kept:
        kept.incoming.write_bytes(b"".join(encode_car(root, [stranger, *list(blocks)[:4]])))
        kept.take_incoming(50_000_000)
        assert len(kept) == 4 and stranger.cid not in kept.missing()
        with pytest.raises(ContentMismatch):
            kept.get(stranger.cid)


def test_a_dag_of_countless_blocks_that_nobody_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("client.pull.kept.MAX_MISSING", 4)
    hostile, blocks = build_directory({str(index): str(index).encode() for index in range(9)})
    first = next(iter(blocks))
    with kept_in(tmp_path, hostile) as kept:
        kept.add(first)
        with pytest.raises(BadInput, match="more than 4 blocks"):
            kept.missing()


def test_two_pulls_of_one_release_do_not_share_its_blocks(root, tmp_path):
    with kept_in(tmp_path, root), pytest.raises(Conflict, match="being fetched already"), kept_in(tmp_path, root):
        pass


PULLS = """
import sys
from pathlib import Path
from client.pull.fetch import fetch_release
cid, url, into, keep = sys.argv[1:]
print("begun", flush=True)
fetch_release(cid, [url], Path(into), max_bytes=20_000_000, timeout_s=60, keep=Path(keep))
"""


def pulls(root: Cid, url: str, into: Path, keep: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PULLS, str(root), url, str(into), str(keep)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_pull_that_is_killed_leaves_nothing_half_and_goes_on(store, root, tmp_path, share):
    into, keep = tmp_path / "pulled", tmp_path / "partial"
    gateway = Counted(store, pause_s=0.1)
    with Server(gateway) as server:
        process = pulls(root, server.url, into, keep)
        while gateway.sent < SIZE * share and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not into.exists()
    rest = Counted(store)
    with Server(rest) as server:
        fetch_release(str(root), [server.url], into, keep=keep, **LIMITS)
    assert content_of(into) == FILES
    assert rest.sent < SIZE * (1.15 - share) + 2_000_000
    assert list(keep.iterdir()) == []
    for left in tmp_path.glob(".pulled.*.part"):
        os.utime(left, (0, 0))
    into.rename(tmp_path / "first")
    fetch_release(str(root), [CarFolder(store.car(root).parent)], into, **LIMITS)
    assert not list(tmp_path.glob(".pulled.*.part")), "what the killed one left is swept"


def test_kept_blocks_that_the_disk_spoilt_are_fetched_again(store, root, tmp_path):
    keep = tmp_path / "partial"
    keep.mkdir()
    data = bytearray(store.car(root).read_bytes())
    data[5_000_000] ^= 1
    (keep / f"{root}.car").write_bytes(data)
    gateway = Counted(store)
    with Server(gateway) as server:
        fetch_release(str(root), [server.url], tmp_path / "pulled", keep=keep, **LIMITS)
    assert content_of(tmp_path / "pulled") == FILES
    assert 0 < gateway.sent < SIZE * 0.7


def test_a_stalled_gateway_loses_its_share_of_the_time_and_what_it_sent_counts(store, root, tmp_path):
    still, second = threading.Event(), Counted(store)
    car = store.car(root).read_bytes()

    def stalls(*_):
        def pieces():
            yield car[:5_000_000]
            still.wait(20)

        return 200, {"Content-Type": CAR_TYPE}, pieces()

    with Server(stalls) as one, Server(second) as two:
        begun = time.monotonic()
        fetch_release(str(root), [one.url, two.url], tmp_path / "pulled", max_bytes=20_000_000, timeout_s=4.0)
        still.set()
    assert content_of(tmp_path / "pulled") == FILES
    assert time.monotonic() - begun < 4.0 and second.sent < SIZE * 0.7


def test_a_release_comes_from_a_folder_of_cars(store, root, tmp_path):
    cars = CarFolder(store.car(root).parent)
    assert content_of(fetch_release(str(root), [cars], tmp_path / "pulled", **LIMITS)) == FILES
    other = Cid.of(0x70, b"not there")
    with pytest.raises(Unreachable, match="no readable"):
        fetch_release(str(other), [cars], tmp_path / "other", **LIMITS)


def test_a_release_comes_from_an_ipfs_node_and_what_it_lacks_from_a_gateway(store, root, tmp_path, monkeypatch):
    monkeypatch.setattr("client.pull.sources.NODE_SILENCE_S", 3.0)
    with IpfsNode() as node:
        with Server(Counted(store)) as gateway:
            fetch_release(str(root), [Node(node.api), gateway.url], tmp_path / "elsewhere", **LIMITS)
        assert content_of(tmp_path / "elsewhere") == FILES, "a node that looks for it in vain is not waited for"
        with store.car(root).open("rb") as stream:
            Kubo(node.api).put(root, stream)
        source = Node(node.api)
        assert content_of(fetch_release(str(root), [source], tmp_path / "pulled", **LIMITS)) == FILES
        assert source.block(Cid.of(RAW, b"home"), timeout_s=5) == b"home"
    with Server(Counted(store)) as gateway:
        fetch_release(str(root), [source, gateway.url], tmp_path / "again", **LIMITS)
    assert content_of(tmp_path / "again") == FILES
