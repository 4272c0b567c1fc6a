"""Writing, reading back, serving, pulling and pinning take as much memory for a large release as for a small one.

``COTERIE_STREAM_MB=1024`` measures at a gigabyte.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.ipfs.node import IpfsNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MEGABYTES = int(os.environ.get("COTERIE_STREAM_MB", "64"))
ALLOWED_MB = 48
"""Some pieces of a megabyte, the index of the blocks (200 bytes each), and what the allocator keeps."""

MEASURED = """
import json, resource, sys, threading
sys.path[:0] = ["tests"]
from pathlib import Path
from loopback import Server
from client.pull.command import digest, require_unchanged
from client.pull.fetch import fetch_release
from coordinator.releases.gateway import respond
from coordinator.releases.places import MirrorPlace, NodePlace
from coordinator.releases.store import CarStore
from ipfs.kubo import Kubo

step, folder, megabytes, api = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
store = CarStore(folder / "cars")

def serve(path, query):
    _, _, cid, *rest = path.split("/")
    status, kind, body = respond(store, cid, "/".join(rest), query["format"][0])
    return status, {"Content-Type": kind}, [body] if isinstance(body, bytes) else body

if step == "write":
    big = folder / "adapter"
    with big.open("wb") as file:
        for index in range(megabytes):
            file.write(index.to_bytes(4, "big") * (1 << 18))
    store.put({"adapter.safetensors": big, "manifest.json": b"{}"})
    big.unlink()
[root] = store.list()
if step == "read":
    assert store.verify(root).file_bytes == (megabytes << 20) + 2
if step == "serve and pull":
    with Server(serve) as server:
        limits = {"max_bytes": 4 << 30, "timeout_s": 600, "keep": folder / "keep"}
        fetch_release(str(root), [server.url], folder / "pulled", **limits)
    require_unchanged(folder / "pulled", root)
    digest(folder / "pulled" / "adapter.safetensors")
if step == "mirror":
    with Server(serve) as server:
        MirrorPlace(server.url).settle(root, store.car(root), "")
if step == "node":
    NodePlace(Kubo(api)).settle(root, store.car(root), "")
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""


def peak(step: str, folder: Path, megabytes: int, api: str = "") -> float:
    """MB of a process that does this and no more."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, step, str(folder), str(megabytes), api],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_memory_stays_flat(tmp_path: Path, record_property) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    with IpfsNode() as node:
        for step in ("write", "read", "serve and pull", "mirror", "node"):
            least, most = peak(step, small, 2, node.api), peak(step, large, MEGABYTES, node.api)
            record_property(step, f"{least:.0f} MB, {most:.0f} MB")
            print(f"{step}: {least:.0f} MB for 2 MB, {most:.0f} MB for {MEGABYTES} MB")
            assert most - least < ALLOWED_MB, step
