"""What holds for every file, folder and CAR: names, sizes and damage are drawn at random."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.car import Car, read_car, write_car
from protocol.errors import BadInput, CoterieError
from protocol.unixfs import (
    DAG_PB,
    MAX_NAME_BYTES,
    RAW,
    Block,
    Cid,
    Profile,
    build_directory,
    build_file,
    check_name,
    read_file,
    subdag,
    trail,
    walk,
)

SMALL = Profile(chunk_bytes=4, links=3)
"""Trees of several levels from a hundred bytes."""


def is_allowed(name: str) -> bool:
    return name not in (".", "..") and len(name.encode()) <= MAX_NAME_BYTES


letters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\")
names = st.text(letters, min_size=1, max_size=12).filter(is_allowed)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
folders = st.dictionaries(paths, st.binary(max_size=200), min_size=1, max_size=12)
cids = st.builds(Cid, st.sampled_from([RAW, DAG_PB]), st.binary(min_size=32, max_size=32))
old_cids = st.builds(Cid, st.just(DAG_PB), st.binary(min_size=32, max_size=32), st.just(0))


def getter(blocks: list[Block]):
    return {block.cid: block.data for block in blocks}.__getitem__


def build(files: dict[str, bytes]) -> tuple[Cid, list[Block]] | None:
    """None where one path is another one's folder."""
    if any(one.startswith(f"{other}/") for one in files for other in files):
        with pytest.raises(BadInput, match="file"):
            build_directory(files, SMALL)
        return None
    root, blocks = build_directory(files, SMALL)
    return root, list(blocks)


@given(cids | old_cids)
def test_a_cid_survives_its_text_and_its_bytes(cid):
    assert Cid.parse(str(cid)) == cid
    assert str(Cid.parse(str(cid))) == str(cid)
    assert Cid.read(bytes(cid)) == (cid, len(bytes(cid)))


@given(st.text(max_size=70) | st.from_regex(r"b[a-z2-7]{58}", fullmatch=True) | st.from_regex(r"Qm\w{44}"))
def test_text_is_a_cid_in_its_one_spelling_or_refused(text):
    try:
        cid = Cid.parse(text)
    except BadInput:
        return
    assert str(cid) == text


@given(st.binary(max_size=300))
def test_a_file_reads_back_as_it_was_added(data):
    root, blocks = build_file(data, SMALL)
    assert b"".join(read_file(root, getter(list(blocks)))) == data


@given(folders)
def test_a_folder_reads_back_as_it_was_added(files):
    built = build(files)
    if built is None:
        return
    root, blocks = built
    get = getter(blocks)
    entries = list(walk(root, get))
    assert entries[0] == ("", root, True)
    assert {e.path: b"".join(read_file(e.cid, get)) for e in entries if not e.is_dir} == files
    assert all(trail(root, e.path, get)[-1] == e.cid for e in entries)
    assert list(subdag(root, get)) == blocks, "built and read in the same order, each block once"


@given(folders, st.randoms(use_true_random=False))
def test_the_order_in_which_files_are_named_changes_nothing(files, random):
    shuffled = list(files.items())
    random.shuffle(shuffled)
    assert build(files) == build(dict(shuffled))


@given(st.text(max_size=5) | st.text("./\\\0a\x1b", max_size=5))
def test_no_accepted_name_leaves_its_folder(name):
    try:
        check_name(name)
    except BadInput:
        return
    assert name not in ("", ".", "..")
    assert not set(name) & set("/\\\0\x1b")


@given(folders)
def test_a_car_gives_back_its_blocks_and_where_they_lie(files):
    built = build(files)
    if built is None:
        return
    root, blocks = built
    stream = io.BytesIO()
    size = write_car(root, blocks, stream)
    written = stream.getvalue()
    assert size == len(written)
    roots, sections = read_car(io.BytesIO(written), size)
    sections = list(sections)
    assert roots == (root,)
    assert [(s.cid, s.data) for s in sections] == [(b.cid, b.data) for b in blocks]
    assert all(written[s.offset : s.offset + len(s.data)] == s.data for s in sections)


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_damaged_car_is_refused_or_says_the_same(content, draw):
    root, blocks = build_directory({"a": content, "b/c": content[::-1]}, SMALL)
    stream = io.BytesIO()
    write_car(root, blocks, stream)
    written = bytearray(stream.getvalue())
    at = draw.draw(st.integers(0, len(written) - 1))
    if draw.draw(st.booleans()):
        written[at] ^= draw.draw(st.integers(1, 255))
    else:
        del written[at:]
    try:
        car = Car(io.BytesIO(written), len(written))
        files = {e.path: b"".join(read_file(e.cid, car.get)) for e in walk(root, car.get) if not e.is_dir}
    except CoterieError:
        return
    assert files == {"a": content, "b/c": content[::-1]}


@given(st.binary(max_size=200))
def test_no_bytes_make_the_car_reader_fail_without_a_sentence(junk):
    try:
        _, sections = read_car(io.BytesIO(junk), 100)
        list(sections)
    except CoterieError as error:
        assert str(error).endswith(".")


@given(st.binary(max_size=200))
def test_no_block_makes_the_unixfs_reader_fail_without_a_sentence(junk):
    cid = Cid.of(DAG_PB, junk)
    try:
        list(walk(cid, {cid: junk}.__getitem__))
        b"".join(read_file(cid, {cid: junk}.__getitem__))
    except CoterieError as error:
        assert str(error).endswith(".")
    except KeyError:
        pass
