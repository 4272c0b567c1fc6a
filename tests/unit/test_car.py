"""CAR streams that are cut, blown up or forged."""

import io
from pathlib import Path

import pytest

from protocol.car import MAX_HEADER_BYTES, Car, read_car, write_car
from protocol.errors import BadInput, ContentMismatch
from protocol.unixfs import MAX_BLOCK_BYTES, RAW, Block, Cid, build_directory, varint


def car_of(root, blocks):
    stream = io.BytesIO()
    write_car(root, blocks, stream)
    return stream.getvalue()


@pytest.fixture
def car():
    return car_of(*build_directory({"a.txt": b"hello", "b/c.txt": b"world"}))


def read(data, max_bytes=10_000_000):
    roots, sections = read_car(io.BytesIO(data), max_bytes)
    return roots, list(sections)


def test_the_header_is_the_one_of_the_specification():
    cid = Cid.of(RAW, b"x")
    header = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + bytes(cid) + b"\x67version\x01"
    assert car_of(cid, []) == bytes([len(header)]) + header


def test_a_cut_car_is_told_from_a_whole_one_unless_cut_between_blocks(car):
    _, sections = read(car)
    borders = {1 + car[0]} | {section.offset + len(section.data) for section in sections}
    for end in range(len(car)):
        if end in borders:
            assert len(read(car[:end])[1]) < len(sections)
        else:
            with pytest.raises(BadInput):
                read(car[:end])


def test_a_missing_block_is_noticed_when_it_is_wanted(car):
    root, blocks = build_directory({"a.txt": b"hello"})
    opened = Car(io.BytesIO(car_of(root, list(blocks)[:1])), 1000)
    with pytest.raises(ContentMismatch, match="incomplete"):
        opened.get(Cid.of(RAW, b"hello"))


def test_a_block_with_another_hash_is_refused():
    forged = car_of(Cid.of(RAW, b"x"), [Block(Cid.of(RAW, b"right"), b"wrong")])
    with pytest.raises(ContentMismatch):
        read(forged)


def test_bytes_after_the_last_block_are_refused(car):
    for extra in (b"\0", b"garbage", b"\xff" * 20):
        with pytest.raises(BadInput):
            read(car + extra)


def test_a_section_larger_than_any_block_is_refused_before_it_is_read(car):
    endless = io.BytesIO(car + varint(MAX_BLOCK_BYTES + 37) + bytes(10))
    with pytest.raises(BadInput, match="are allowed"):
        list(read_car(endless, 1 << 40)[1])
    assert endless.tell() < len(car) + 10


def test_no_more_than_the_allowed_bytes_are_read(car):
    assert read(car, len(car))
    with pytest.raises(BadInput, match="longer"):
        read(car, len(car) - 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"<!doctype html><title>404</title>",
        varint(MAX_HEADER_BYTES + 1) + bytes(MAX_HEADER_BYTES + 1),
        b"\xff" * 12,
        b"\x01\xa2",
        b"\x11\xa2\x65roots\x80\x67version\x02",
        b"\x12\xa2\x65roots\x81\x00\x67version\x01",
    ],
)
def test_what_is_no_car_is_refused(data):
    with pytest.raises(BadInput):
        read(data)


def test_a_car_without_roots_is_a_car():
    header = b"\xa2\x65roots\x80\x67version\x01"
    assert read(bytes([len(header)]) + header) == ((), [])


def test_a_block_is_found_under_either_version_of_its_cid():
    block = Block(Cid(0x70, Cid.of(0x70, b"").digest, version=0), b"")
    car = Car(io.BytesIO(car_of(block.cid, [block])), 1000)
    assert car.roots == (block.cid,)
    assert car.get(Cid.of(0x70, b"")) == b""


def test_a_stream_that_gives_little_at_a_time_is_read_whole(car, tmp_path: Path):
    class Dripping(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 3))

    assert list(read_car(Dripping(car), len(car))[1]) == read(car)[1]
