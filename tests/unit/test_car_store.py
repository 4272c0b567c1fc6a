"""The store: what is put stays, what is damaged is noticed, and the index is never the truth."""

import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from coordinator.releases.gateway import CAR_TYPE, RAW_TYPE, respond
from coordinator.releases.store import CarStore, ReadBack
from protocol.car import Car
from protocol.errors import BadInput, ContentMismatch, NotFound
from protocol.unixfs import DAG_PB, RAW, Cid, build_directory, read_file, walk

FILES = {"manifest.json": b'{"a": 1}', "samples/sheet.png": bytes(range(256)) * 5000, "README.md": b"# Release"}


@pytest.fixture
def store(tmp_path):
    return CarStore(tmp_path / "releases")


def everything(data: bytes, root: Cid) -> dict[str, bytes]:
    car = Car(io.BytesIO(data), len(data))
    return {e.path: b"".join(read_file(e.cid, car.get)) for e in walk(root, car.get) if not e.is_dir}


def test_a_release_reads_back_from_the_disk(store):
    root = store.put(FILES)
    # 2 folders, the sheet's node with 2 chunks, 2 small files
    assert store.verify(root) == ReadBack(blocks=7, files=3, file_bytes=sum(map(len, FILES.values())))
    assert everything(store.car(root).read_bytes(), root) == FILES
    assert list(store.list()) == [root]
    assert b"".join(store.read(root, "samples/sheet.png")) == FILES["samples/sheet.png"]


def test_files_on_disk_and_bytes_make_the_same_release(store, tmp_path):
    (tmp_path / "sheet.png").write_bytes(FILES["samples/sheet.png"])
    assert store.put({**FILES, "samples/sheet.png": tmp_path / "sheet.png"}) == store.put(FILES)
    assert len(store.list()) == 1


def test_a_path_leads_to_its_cid(store):
    root = store.put(FILES)
    assert store.resolve(root, "") == root
    assert store.resolve(root, "manifest.json") == Cid.of(RAW, FILES["manifest.json"])
    assert store.resolve(root, "samples").codec == DAG_PB
    for path in ("nothing", "manifest.json/x", "samples/nothing"):
        with pytest.raises(NotFound):
            store.resolve(root, path)
    with pytest.raises(BadInput):
        store.resolve(root, "../etc/passwd")


def test_every_block_of_every_release_is_served_by_any_process(store, tmp_path):
    reader = CarStore(tmp_path / "releases")
    roots = [store.put(FILES), store.put({"other": b"x", "README.md": FILES["README.md"]})]
    for root in roots:
        for entry in walk(root, reader.block):
            assert entry.cid.check(reader.block(entry.cid))
    with pytest.raises(NotFound):
        reader.block(Cid.of(RAW, b"never put"))
    with pytest.raises(NotFound):
        reader.car(Cid.of(RAW, b"x"))


def test_a_lost_index_is_made_again_from_the_cars(store, tmp_path):
    root = store.put(FILES)
    (tmp_path / "releases" / "index.sqlite").unlink()
    again = CarStore(tmp_path / "releases")
    assert again.block(root)
    (tmp_path / "releases" / "index.sqlite").unlink()
    assert again.block(root), "also while it is open"


def test_a_car_that_went_missing_is_gone_and_one_that_was_copied_in_is_there(store, tmp_path):
    root = store.put(FILES)
    data = store.car(root).read_bytes()
    store.car(root).unlink()
    with pytest.raises(NotFound):
        store.block(root)
    (tmp_path / "releases" / f"{root}.car").write_bytes(data)
    assert store.block(root)
    assert store.verify(root)


def test_a_flipped_bit_on_the_disk_is_noticed_and_putting_again_mends_it(store):
    root = store.put(FILES)
    path = store.car(root)
    data = bytearray(path.read_bytes())
    data[data.index(b"# Release")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ContentMismatch):
        store.verify(root)
    with pytest.raises(ContentMismatch):
        store.block(Cid.of(RAW, b"# Release"))
    store.put(FILES)
    assert store.verify(root)
    assert store.block(Cid.of(RAW, b"# Release")) == b"# Release"


def test_a_block_spoilt_in_one_car_is_served_from_another(store):
    roots = [store.put(FILES), store.put({"README.md": FILES["README.md"]})]
    for root in roots:
        path = store.car(root)
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"# Release", b"# Relapse"))
        assert store.block(Cid.of(RAW, b"# Release")) == b"# Release"
        path.write_bytes(whole)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_cut_car_is_noticed_and_does_not_stop_the_others(store, tmp_path, keep):
    root, other = store.put(FILES), store.put({"other": b"x"})
    path = store.car(root)
    path.write_bytes(path.read_bytes()[:keep])
    again = CarStore(tmp_path / "releases")
    with pytest.raises((BadInput, ContentMismatch)):
        again.verify(root)
    assert again.verify(other)
    with pytest.raises(NotFound):
        again.block(Cid.of(RAW, b"never put"))


def test_a_block_too_many_is_noticed(store):
    root, other = store.put({"a": b"1"}), store.put({"b": b"2"})
    header = len(store.car(other).read_bytes()) - sum(37 + len(store.block(e.cid)) for e in walk(other, store.block))
    with store.car(root).open("ab") as stream:
        stream.write(store.car(other).read_bytes()[header:])
    with pytest.raises(ContentMismatch, match="do not belong"):
        store.verify(root)


def test_a_car_under_another_ones_name_is_noticed(store):
    root, other = store.put({"a": b"1"}), store.put({"b": b"2"})
    store.car(root).write_bytes(store.car(other).read_bytes())
    with pytest.raises(ContentMismatch, match="another root"):
        store.verify(root)


def test_a_put_that_fails_leaves_nothing(store, tmp_path, monkeypatch):
    good, missing = tmp_path / "adapter", tmp_path / "missing"
    good.write_bytes(b"weights")
    with pytest.raises(FileNotFoundError):
        store.put({"adapter": good, "missing": missing})
    monkeypatch.setattr("coordinator.releases.store.os.fsync", Mock(side_effect=OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        store.put({"adapter": good})
    assert list((tmp_path / "releases").glob("*.part")) == []
    assert list(store.list()) == []


KILLED = """
import os, sys
from pathlib import Path
from coordinator.releases import store
point = sys.argv[2]
dies = lambda *_: os._exit(9)
if point == "while writing": store.os.fsync = dies
if point == "before the rename": Path.replace = dies
if point == "before the index": store.CarStore._index = dies
store.CarStore(Path(sys.argv[1])).put({"a": b"1", "b": b"2"})
"""


@pytest.mark.parametrize("point", ["while writing", "before the rename", "before the index"])
def test_a_kill_leaves_the_release_whole_or_not_there(tmp_path, point):
    folder = tmp_path / "releases"
    root, _ = build_directory({"a": b"1", "b": b"2"})
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, point], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == 9
    store = CarStore(folder)
    if point == "before the index":
        assert store.block(root) and store.verify(root)
    else:
        assert list(store.list()) == []
        with pytest.raises(NotFound):
            store.car(root)
    for part in folder.glob("*.part"):
        os.utime(part, (0, 0))
    assert CarStore(folder).put({"a": b"1", "b": b"2"}) == root
    assert list(folder.glob("*.part")) == []
    assert store.verify(root)


def body_of(response) -> bytes:
    return response[2] if isinstance(response[2], bytes) else b"".join(response[2])


def test_the_gateway_serves_a_release_as_a_car(store):
    root = store.put(FILES)
    response = respond(store, str(root), "", "car")
    assert response[:2] == (200, CAR_TYPE)
    assert body_of(response) == store.car(root).read_bytes()


def test_the_gateway_serves_a_path_with_the_blocks_that_prove_it(store):
    root = store.put(FILES)
    data = body_of(respond(store, str(root), "samples/sheet.png", "car"))
    car = Car(io.BytesIO(data), len(data))
    assert len(car) == 5, "root, folder, the file's node, its two chunks, and nothing else"
    assert everything(body_of(respond(store, str(root), "samples", "car")), store.resolve(root, "samples"))


def test_the_gateway_serves_single_blocks(store):
    root = store.put(FILES)
    assert respond(store, str(root), "", "raw") == (200, RAW_TYPE, store.block(root))


@pytest.mark.parametrize(
    ("cid", "path", "format_", "status"),
    [
        ("nonsense", "", "car", 400),
        ("ROOT", "../x", "car", 400),
        ("ROOT", "", "json", 400),
        ("ROOT", "", "", 400),
        ("ROOT", "README.md", "raw", 400),
        ("ROOT", "nothing", "car", 404),
        (str(Cid.of(RAW, b"not here")), "", "car", 404),
        (str(Cid.of(RAW, b"not here")), "", "raw", 404),
    ],
)
def test_the_gateway_says_no_with_a_reason(store, cid, path, format_, status):
    root = store.put(FILES)
    got, content_type, body = respond(store, cid.replace("ROOT", str(root)), path, format_)
    assert (got, content_type) == (status, "text/plain; charset=utf-8")
    assert body.endswith(b".\n")


def test_the_gateway_does_not_serve_what_the_disk_has_spoilt(store):
    root = store.put({"a": b"secret sauce"})
    path = store.car(root)
    path.write_bytes(path.read_bytes().replace(b"sauce", b"salsa"))
    assert respond(store, str(Cid.of(RAW, b"secret sauce")), "", "raw")[0] == 502
    with pytest.raises(ContentMismatch):
        body_of(respond(store, str(root), "", "car"))
