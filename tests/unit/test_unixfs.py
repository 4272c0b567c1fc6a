"""Hostile and old DAGs, told one by one."""

import pytest

from protocol.errors import BadInput, ContentMismatch, NotFound
from protocol.unixfs import (
    DAG_PB,
    MAX_BLOCK_BYTES,
    MAX_DEPTH,
    RAW,
    Cid,
    Profile,
    build_directory,
    build_file,
    load,
    read_file,
    split_path,
    subdag,
    trail,
    varint,
    walk,
)

CHUNK = 1024 * 1024


class Blocks(dict):
    """Blocks by CID, with a way to make such as no honest writer would."""

    def add(self, codec, data):
        cid = Cid.of(codec, data)
        self[cid] = data
        return cid

    def node(self, unixfs, links=()):
        """A dag-pb block with ``links`` as (name bytes, Cid)."""
        parts = []
        for name, cid in links:
            link = b"\x0a" + varint(len(bytes(cid))) + bytes(cid) + b"\x12" + varint(len(name)) + name
            parts.append(b"\x12" + varint(len(link)) + link)
        return self.add(DAG_PB, b"".join(parts) + b"\x0a" + varint(len(unixfs)) + unixfs)

    def directory(self, links):
        return self.node(b"\x08\x01", links)

    def file(self, sizes, links, declared=None):
        total = sum(sizes) if declared is None else declared
        unixfs = b"\x08\x02\x18" + varint(total) + b"".join(b"\x20" + varint(size) for size in sizes)
        return self.node(unixfs, [(b"", link) for link in links])

    @property
    def get(self):
        return self.__getitem__


@pytest.fixture
def blocks():
    return Blocks()


def test_known_addresses():
    assert str(build_file(b"")[0]) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert str(build_file(b"hello world")[0]) == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7])
def test_a_file_on_disk_has_the_address_of_its_bytes(size, tmp_path):
    data = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    root, blocks = build_file(path)
    held = {block.cid: block.data for block in blocks}
    assert root == build_file(data[:size])[0]
    assert root.codec == (RAW if size <= CHUNK else DAG_PB)
    assert max(map(len, held.values())) <= CHUNK
    assert b"".join(read_file(root, held.__getitem__)) == data[:size]


def test_all_leaves_lie_at_the_same_depth():
    root, blocks = build_file(bytes(range(10)), Profile(chunk_bytes=1, links=3))
    # 10 leaves, 4 nodes over them, 2 over those, 1 root: the tenth leaf has two nodes of its own above it.
    assert sum(1 for _ in blocks) == 10 + 4 + 2 + 1
    assert root.codec == DAG_PB


def test_a_file_that_changes_while_it_is_added_is_noticed(tmp_path):
    path = tmp_path / "adapter"
    path.write_bytes(b"before")
    _, blocks = build_directory({"adapter": path})
    path.write_bytes(b"after!")
    with pytest.raises(ContentMismatch):
        list(blocks)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0", "a\x1b[2J", "\ud800", "x" * 256, "a/" * 32 + "b"],
)
def test_a_path_that_could_do_harm_is_not_added(path):
    with pytest.raises(BadInput):
        build_directory({path: b"x"})


@pytest.mark.parametrize("files", [{}, {"a": b"", "a/b": b""}, {"a/b": b"", "a": b""}])
def test_an_empty_folder_and_a_file_that_is_a_folder_are_not_added(files):
    with pytest.raises(BadInput):
        build_directory(files)


def test_a_folder_too_large_for_one_block_is_refused_with_a_way_out():
    with pytest.raises(BadInput, match="sub-folders"):
        build_directory({f"{index:040}": b"" for index in range(4000)})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "Qm",
        "BAFKREIHDWDCEFGH4DQKJV67UZCMW7OJEE6XEDZDETOJUZJEVTENXQUVYKU",
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv",  # same bytes, other trailing bits
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku=",
        "bafkqaaa",  # identity
        "bafyrgqaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "QmPAg1mjxcEQPPtqsLoEcauVedaeMH81WXDPvPx3VC5zU0",
        "zb2rhe5P4gXftAwvA4eXQ5HJwsER2owDyS9sKaQRRVQPn93bA",
        "b" * 10_000,
    ],
)
def test_other_bases_codecs_and_hashes_are_refused(text):
    with pytest.raises(BadInput):
        Cid.parse(text)


def test_a_wrong_block_is_never_given_out(blocks):
    root, built = build_file(b"0123456789", Profile(chunk_bytes=4, links=3))
    blocks.update({block.cid: block.data for block in built})
    last = Cid.of(RAW, b"89")
    blocks[last] = b"98"
    pieces = read_file(root, blocks.get)
    assert next(pieces) == b"0123"
    assert next(pieces) == b"4567"
    with pytest.raises(ContentMismatch):
        next(pieces)


def test_a_block_beyond_two_mebibytes_is_refused(blocks):
    with pytest.raises(BadInput, match="larger"):
        load(blocks.add(RAW, bytes(MAX_BLOCK_BYTES + 1)), blocks.get)


def test_a_file_longer_than_allowed_is_refused_before_its_first_byte(blocks):
    root = blocks.file([3, 3], [Cid.of(RAW, b"abc"), Cid.of(RAW, b"def")])
    with pytest.raises(BadInput, match="5 are allowed"):
        next(read_file(root, blocks.get, max_bytes=5))


@pytest.mark.parametrize(("sizes", "declared"), [([3, 0], 3), ([3], 3), ([3, 3], 7), ([3, 2], 5), ([4, 3], 7)])
def test_sizes_that_do_not_add_up_are_refused(blocks, sizes, declared):
    leaves = [blocks.add(RAW, b"abc"), blocks.add(RAW, b"def")]
    root = blocks.file(sizes, leaves, declared)
    with pytest.raises(BadInput):
        list(read_file(root, blocks.get))


def test_a_tree_of_nested_nodes_ends(blocks):
    node = blocks.add(RAW, b"x")
    for _ in range(MAX_DEPTH + 2):
        node = blocks.file([1], [node])
    with pytest.raises(BadInput, match="deeper"):
        list(read_file(node, blocks.get))


def test_folders_that_multiply_end(blocks):
    """30 folders, each twice in the next one: a billion paths from 2 kB."""
    node = blocks.directory([])
    for _ in range(30):
        node = blocks.directory([(b"a", node), (b"b", node)])
    with pytest.raises(BadInput, match="more than 1000 entries"):
        list(walk(node, blocks.get, max_entries=1000))
    assert len(list(subdag(node, blocks.get))) == 31


def test_folders_nested_too_deep_end(blocks):
    node = blocks.directory([])
    for _ in range(MAX_DEPTH + 1):
        node = blocks.directory([(b"a", node)])
    with pytest.raises(BadInput, match="deeper"):
        list(walk(node, blocks.get))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"../a", b"a/b", b"a\\b", b"a\0", b"\xff", b"x" * 256])
def test_a_hostile_name_in_a_folder_is_refused(blocks, name):
    root = blocks.directory([(name, blocks.add(RAW, b"x"))])
    with pytest.raises(BadInput):
        list(walk(root, blocks.get))
    with pytest.raises(BadInput):
        trail(root, "a", blocks.get)


def test_a_name_that_is_there_twice_is_refused(blocks):
    root = blocks.directory([(b"a", blocks.add(RAW, b"x")), (b"a", blocks.add(RAW, b"y"))])
    with pytest.raises(BadInput, match="twice"):
        list(walk(root, blocks.get))


@pytest.mark.parametrize(
    ("unixfs", "kind"), [(b"\x08\x04", "symlink"), (b"\x08\x05", "sharded"), (b"\x08\x09", "unknown")]
)
def test_what_is_neither_file_nor_folder_is_refused_by_its_name(blocks, unixfs, kind):
    root = blocks.directory([(b"a", blocks.node(unixfs))])
    with pytest.raises(BadInput, match=kind):
        list(walk(root, blocks.get))


def test_a_file_of_version_0_with_inline_leaves_is_read(blocks):
    leaves = [blocks.node(b"\x08\x02\x12\x03" + text + b"\x18\x03") for text in (b"abc", b"def")]
    old_leaves = [Cid(DAG_PB, leaf.digest, version=0) for leaf in leaves]
    blocks.update({Cid(DAG_PB, leaf.digest, version=0): blocks[leaf] for leaf in leaves})
    assert b"".join(read_file(blocks.file([3, 3], old_leaves), blocks.get)) == b"abcdef"


def test_a_path_that_is_not_there_is_proven_absent(blocks):
    root, built = build_directory({"a/b.json": b"{}"})
    blocks.update({block.cid: block.data for block in built})
    assert [str(cid) for cid in trail(root, "", blocks.get)] == [str(root)]
    for path in ("c", "a/c", "a/b.json/c"):
        with pytest.raises(NotFound):
            trail(root, path, blocks.get)
    with pytest.raises(BadInput):
        trail(root, "a/../a", blocks.get)


def test_a_folder_is_not_read_as_a_file(blocks):
    with pytest.raises(BadInput, match="directory"):
        list(read_file(blocks.directory([]), blocks.get))


def test_names_keep_their_spelling():
    assert split_path("Дом/家.png") == ("Дом", "家.png")
