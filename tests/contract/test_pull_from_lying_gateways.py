"""Pulling by CID from real HTTP servers on loopback that lie, stall, cut off and never end."""

import contextlib
import gzip
import io
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from loopback import Server

from client.pull.fetch import fetch_file, fetch_release
from coordinator.releases.gateway import CAR_TYPE, respond
from coordinator.releases.store import CarStore
from protocol.car import write_car
from protocol.errors import BadInput, Conflict, NotFound, Unreachable
from protocol.unixfs import DAG_PB, RAW, Block, Cid, build_directory, varint

FILES = {
    "manifest.json": b'{"round": 1}',
    "weights/adapter.bin": random.Random(7).randbytes(2_560_000),
    "家/Дом.txt": b"home",
}
MANY_BYTES = 20_000_000

pytestmark = pytest.mark.slow


@pytest.fixture
def start():
    """Start gateways that are all ended after the test; returns a function from an answer to a Server."""
    with contextlib.ExitStack() as stack:
        yield lambda answer: stack.enter_context(Server(answer))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return CarStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def root(store):
    return store.put(FILES)


@pytest.fixture
def honest(start, store):
    """What the coordinator serves."""

    def answer(path: str, query: dict[str, list[str]]):
        _, _, cid, *rest = path.split("/")
        status, content_type, body = respond(store, cid, "/".join(rest), query["format"][0])
        return status, {"Content-Type": content_type}, [body] if isinstance(body, bytes) else body

    return start(answer)


def says(*pieces: bytes, status: int = 200, **headers: str):
    return lambda *_: (status, {"Content-Type": CAR_TYPE, **headers}, pieces)


def car(cid: Cid, blocks) -> bytes:
    stream = io.BytesIO()
    write_car(cid, blocks, stream)
    return stream.getvalue()


def content_of(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pull(root, gateways, into, max_bytes=MANY_BYTES, timeout_s=10.0):
    return fetch_release(str(root), [g.url for g in gateways], into, max_bytes=max_bytes, timeout_s=timeout_s)


def refused(root, gateway, tmp_path, **limits) -> str:
    """The reason for which the gateway's answer is refused; nothing may be left of it."""
    with pytest.raises(Unreachable) as caught:
        pull(root, [gateway], tmp_path / "pulled", **limits)
    assert list(tmp_path.iterdir()) == []
    assert gateway.url in str(caught.value)
    return str(caught.value)


def test_an_honest_gateway_is_enough(honest, root, tmp_path):
    seen: list[int] = []
    folder = fetch_release(
        str(root),
        [honest.url + "/"],
        tmp_path / "new" / "pulled",
        max_bytes=MANY_BYTES,
        timeout_s=10,
        progress=seen.append,
    )
    assert content_of(folder) == FILES
    assert [p.name for p in folder.parent.iterdir()] == ["pulled"]
    assert seen == sorted(seen) and seen[-1] > sum(map(len, FILES.values()))
    assert honest.asked == [(f"/ipfs/{root}?format=car&dag-scope=all", CAR_TYPE)]


def test_blocks_in_any_order_with_repeats_and_strangers_are_fine(start, root, store, tmp_path):
    _, blocks = build_directory(FILES)
    blocks = list(blocks)
    stranger = Block(Cid.of(RAW, b"unasked"), b"unasked")
    shuffled = car(stranger.cid, [*reversed(blocks), stranger, *blocks])
    assert content_of(pull(root, [start(says(shuffled))], tmp_path / "pulled")) == FILES


def test_the_second_gateway_helps_when_the_first_has_nothing(start, honest, root, tmp_path):
    empty = start(says(b"not here", status=404))
    assert content_of(pull(root, [empty, honest], tmp_path / "pulled")) == FILES
    assert len(empty.asked) == len(honest.asked) == 1


def test_the_second_gateway_helps_when_the_first_lies(start, honest, root, store, tmp_path):
    liar = start(says(store.car(root).read_bytes().replace(b'"round": 1', b'"round": 2')))
    assert content_of(pull(root, [liar, honest], tmp_path / "pulled")) == FILES


def test_a_wrong_block_is_refused(start, root, store, tmp_path):
    forged = store.car(root).read_bytes().replace(b"home", b"hole")
    assert "another hash" in refused(root, start(says(forged)), tmp_path)


@pytest.mark.parametrize("cut", [5, 1000, -1, -100_000])
def test_a_cut_car_is_refused(start, root, store, tmp_path, cut):
    assert "cut off" in refused(root, start(says(store.car(root).read_bytes()[:cut])), tmp_path)


def test_a_car_cut_between_two_blocks_is_refused(start, root, tmp_path):
    _, blocks = build_directory(FILES)
    assert "incomplete" in refused(root, start(says(car(root, list(blocks)[:-1]))), tmp_path)


def test_a_connection_that_breaks_off_is_refused(start, root, store, tmp_path):
    data = store.car(root).read_bytes()
    reason = refused(root, start(says(data[:-10], **{"Content-Length": str(len(data))})), tmp_path)
    assert "cut off" in reason or "connection failed" in reason


def test_bytes_behind_the_car_are_refused(start, root, store, tmp_path):
    assert "allowed" in refused(root, start(says(store.car(root).read_bytes(), b"\0\0\0\0")), tmp_path)


def test_another_release_is_refused(start, root, tmp_path):
    other = car(*build_directory({"manifest.json": b'{"round": 2}'}))
    assert "incomplete" in refused(root, start(says(other)), tmp_path)


def test_another_release_under_the_right_root_is_refused(start, root, tmp_path):
    _, blocks = build_directory({"manifest.json": b'{"round": 2}'})
    assert "incomplete" in refused(root, start(says(car(root, blocks))), tmp_path)


def test_an_endless_body_is_cut_off(start, root, store, tmp_path):
    def endless() -> Iterator[bytes]:
        yield store.car(root).read_bytes()
        filler = bytes(1_000_000)
        block = bytes(Cid.of(RAW, filler)) + filler
        while True:
            yield varint(len(block)) + block

    gateway = start(lambda *_: (200, {"Content-Type": CAR_TYPE}, endless()))
    assert "more than the 5000000 bytes" in refused(root, gateway, tmp_path, max_bytes=5_000_000)


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_gateway_that_drips_has_only_its_share_of_the_time(honest, root, tmp_path, where):
    """Each byte comes well within a socket's timeout; all of them would take hours."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ipld.car\r\n\r\n"
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: " if where == "headers" else head)
                while not done.wait(0.05):
                    connection.sendall(b"a")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            slow = f"http://127.0.0.1:{server.getsockname()[1]}"
            start = time.monotonic()
            folder = fetch_release(
                str(root), [slow, honest.url], tmp_path / "pulled", max_bytes=MANY_BYTES, timeout_s=3.0
            )
            assert content_of(folder) == FILES
            assert 1.0 < time.monotonic() - start < 3.0
        finally:
            done.set()
            dripping.join()


def test_files_that_unfold_beyond_the_limit_are_refused(start, tmp_path):
    """One chunk of 1 MiB named 20 times: a megabyte on the wire, twenty on the disk."""
    bomb = {f"copy-{index}": bytes(1024 * 1024) for index in range(20)}
    cid, blocks = build_directory(bomb)
    assert "are allowed" in refused(cid, start(says(car(cid, blocks))), tmp_path, max_bytes=5_000_000)


def test_a_name_that_leads_out_of_the_folder_is_refused(start, tmp_path):
    leaf = Block(Cid.of(RAW, b"owned"), b"owned")
    name = b"../../owned"
    link = b"\x0a\x24" + bytes(leaf.cid) + b"\x12" + varint(len(name)) + name
    data = b"\x12" + varint(len(link)) + link + b"\x0a\x02\x08\x01"
    cid = Cid.of(DAG_PB, data)
    assert "not allowed" in refused(cid, start(says(car(cid, [Block(cid, data), leaf]))), tmp_path)


def test_a_redirect_to_another_host_is_not_followed(start, honest, root, tmp_path):
    location = f"{honest.url}/ipfs/{root}?format=car"
    reason = refused(root, start(says(status=302, Location=location)), tmp_path)
    assert "another host" in reason
    assert honest.asked == []


def test_a_redirect_on_the_same_host_is_followed_a_few_times(start, root, store, tmp_path):
    data = store.car(root).read_bytes()

    def answer(path: str, _):
        if path.startswith("/moved"):
            return 200, {"Content-Type": CAR_TYPE}, [data]
        return 301, {"Location": f"/moved{path}"}, []

    assert content_of(pull(root, [start(answer)], tmp_path / "pulled")) == FILES
    circle = start(says(status=302, Location=f"/ipfs/{root}"))
    with pytest.raises(Unreachable, match="more than 3 times"):
        pull(root, [circle], tmp_path / "again")


def test_a_page_instead_of_a_car_is_refused(start, root, tmp_path):
    page = start(lambda *_: (200, {"Content-Type": "text/html"}, [b"<h1>Welcome</h1>"]))
    assert "text/html" in refused(root, page, tmp_path)


def test_a_compressed_body_is_never_unpacked(start, root, store, tmp_path):
    zipped = start(says(gzip.compress(store.car(root).read_bytes()), **{"Content-Encoding": "gzip"}))
    refused(root, zipped, tmp_path)


def test_every_gateways_reason_is_told(start, root, tmp_path):
    gone = Server(says())
    gone._server.server_close()
    first, second = start(says(status=500)), start(says(b"junk"))
    gateways = [first.url, second.url, gone.url, "ftp://example.org"]
    with pytest.raises(Unreachable) as caught:
        fetch_release(str(root), gateways, tmp_path / "pulled", max_bytes=MANY_BYTES, timeout_s=5)
    reasons = str(caught.value).split(" | ")
    assert [url in reason for url, reason in zip(gateways, reasons, strict=True)] == [True] * 4
    assert "500" in reasons[0] and "connection failed" in reasons[2] and "not an http(s)" in reasons[3]
    with pytest.raises(Unreachable, match="none was named"):
        fetch_release(str(root), [], tmp_path / "pulled", max_bytes=MANY_BYTES, timeout_s=5)


def test_a_folder_that_exists_is_left_alone(honest, root, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(Conflict):
        pull(root, [honest], tmp_path / "mine")
    assert honest.asked == []


def test_a_single_file_is_not_a_release(honest, store, root, tmp_path):
    with pytest.raises(Unreachable, match="single file"):
        pull(store.resolve(root, "manifest.json"), [honest], tmp_path / "pulled")


def test_text_that_is_no_cid_is_never_asked_for(honest, tmp_path):
    with pytest.raises(BadInput):
        pull("../../etc/passwd", [honest], tmp_path / "pulled")
    assert honest.asked == []


def fetch(gateway, cid_path, max_bytes=MANY_BYTES, timeout_s=10.0):
    return fetch_file(cid_path, [gateway.url], max_bytes, timeout_s)


@pytest.mark.parametrize("path", sorted(FILES))
def test_one_file_is_fetched_by_its_path(honest, root, path):
    assert fetch(honest, f"{root}/{path}") == FILES[path]
    assert len(honest.asked) == 1


def test_one_file_is_fetched_by_its_own_cid(honest, root, store):
    assert fetch(honest, str(store.resolve(root, "weights/adapter.bin"))) == FILES["weights/adapter.bin"]


def test_a_file_is_proven_to_be_the_one_at_that_path(start, root, store):
    other = store.put({"manifest.json": b'{"round": 2}'})
    swapped = b"".join(respond(store, str(other), "manifest.json", "car")[2])
    with pytest.raises(Unreachable, match="incomplete"):
        fetch(start(says(swapped)), f"{root}/manifest.json")


def test_a_file_that_is_proven_absent_is_not_asked_for_elsewhere(start, honest, root, store):
    whole = start(says(store.car(root).read_bytes()))
    with pytest.raises(NotFound):
        fetch_file(f"{root}/nothing.json", [whole.url, honest.url], MANY_BYTES, 10)
    assert honest.asked == []
    with pytest.raises(Unreachable, match="404"):
        fetch(honest, f"{root}/nothing.json")


def test_a_file_larger_than_allowed_is_refused(honest, root):
    with pytest.raises(Unreachable, match="1000 are allowed"):
        fetch(honest, f"{root}/weights/adapter.bin", max_bytes=1000)


@pytest.mark.parametrize("path", ["", "weights", "../x", "a//b"])
def test_a_folder_or_a_bad_path_is_not_a_file(honest, root, path):
    with pytest.raises((Unreachable, BadInput)):
        fetch(honest, f"{root}/{path}")
