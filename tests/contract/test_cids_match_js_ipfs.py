"""Our CIDs are those that js ipfs-unixfs-importer 17 gives under the profile unixfs-v1-2025."""

import base64
import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.ipfs.node import IpfsNode
from ipfs.kubo import Kubo
from protocol.errors import BadInput
from protocol.unixfs import MAX_DIRECTORY_BYTES, UNIXFS_V1_2025, Profile, build_directory, build_file

DEVCHAIN = Path(__file__).parents[2] / "deploy" / "devchain"
CHUNK = 1024 * 1024

pytestmark = pytest.mark.slow


def node_modules() -> Path:
    return Path(os.environ.get("COTERIE_NODE_MODULES") or DEVCHAIN / "node_modules")


def js_cids(folders: list[dict[str, bytes]], profile: Profile = UNIXFS_V1_2025) -> list[str]:
    """What the importer says, one process for all folders."""
    shape = {} if profile == UNIXFS_V1_2025 else {"chunkBytes": profile.chunk_bytes, "links": profile.links}
    asked = [
        {"files": {path: base64.b64encode(data).decode() for path, data in files.items()}, **shape} for files in folders
    ]
    answer = subprocess.run(
        ["node", DEVCHAIN / "unixfs_cid.mjs"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COTERIE_NODE_MODULES": str(node_modules())},
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def our_cids(folders: list[dict[str, bytes]], profile: Profile = UNIXFS_V1_2025) -> list[str]:
    return [str(build_directory(files, profile)[0]) for files in folders]


def test_files_around_the_borders_of_a_chunk():
    sizes = [0, 1, 31, 32, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 3]
    folders = [{"file": bytes(range(256)) * (size // 256) + bytes(size % 256)} for size in sizes]
    assert our_cids(folders) == js_cids(folders)


def test_trees_of_many_levels():
    small = Profile(chunk_bytes=2, links=3)
    folders = [{"file": bytes(range(size))} for size in [*range(60), 107, 108, 109, 161, 162, 163, 200]]
    assert our_cids(folders, small) == js_cids(folders, small)


def test_the_largest_folder_that_is_one_block():
    # 84 bytes an entry and 4 for the folder itself: 144 bytes are left of the 256 KiB, which a name of 99 bytes fills.
    files = {f"{index:040}": b"" for index in range(3119)}
    largest = {**files, "x" * 99: b""}
    _, blocks = build_directory(largest)
    assert len(next(iter(blocks)).data) == MAX_DIRECTORY_BYTES
    assert our_cids([largest]) == js_cids([largest])
    with pytest.raises(BadInput, match="sub-folders"):
        build_directory({**files, "x" * 100: b""})


shapes = st.builds(Profile, st.integers(1, 9), st.integers(2, 5))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shapes, st.lists(st.tuples(st.integers(0, 130), st.integers(-1, 1)), min_size=1, max_size=20))
def test_files_around_every_border_of_chunks_and_levels(shape, borders):
    sizes = [max(0, chunks * shape.chunk_bytes + beside) for chunks, beside in borders]
    levels = [shape.links**level * shape.chunk_bytes + beside for level in range(1, 4) for beside in (-1, 0, 1)]
    folders = [{"file": bytes(number % 251 for number in range(size))} for size in [*sizes, *levels]]
    assert our_cids(folders, shape) == js_cids(folders, shape)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), min_size=1, max_size=4))
def test_files_beside_every_border_of_a_mebibyte(borders):
    sizes = [max(0, chunks * CHUNK + beside) for chunks, beside in borders]
    folders = [{"a/b": bytes([index]) * size} for index, size in enumerate(sizes)]
    assert our_cids(folders) == js_cids(folders)


def test_a_real_node_gives_the_same_addresses():
    sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7]
    profile = {"chunker": f"size-{CHUNK}", "cid-base": "base32"}
    with IpfsNode() as node:
        client = Kubo(node.api)._client
        for size in sizes:
            data = bytes(range(256)) * (size // 256) + bytes(size % 256)
            added = client.add(io.BytesIO(data), raw_leaves=True, cid_version=1, opts=dict(profile))
            assert added["Hash"] == str(build_file(data)[0]), size


letters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\")
names = st.text(letters, min_size=1, max_size=10).filter(lambda name: name not in (".", ".."))
folders_of_any_script = st.dictionaries(
    st.lists(names, min_size=1, max_size=4).map("/".join), st.binary(max_size=40), min_size=1, max_size=8
).filter(lambda files: not any(one.startswith(f"{other}/") for one in files for other in files))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(folders_of_any_script, min_size=1, max_size=8))
def test_folders_with_names_in_any_script(folders):
    assert our_cids(folders) == js_cids(folders)
