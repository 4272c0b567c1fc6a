"""``kill -9`` at any moment of writing a release: it is there whole or not at all, and the next try succeeds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coordinator.releases.store import CarStore
from protocol.errors import NotFound
from protocol.unixfs import Cid, build_directory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WRITES = """
import sys
from pathlib import Path
from coordinator.releases.store import CarStore
store = CarStore(Path(sys.argv[1]) / "cars")
print("begun", flush=True)
store.put({"adapter": Path(sys.argv[1]) / "adapter", "manifest.json": b"{}"})
print("done", flush=True)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITES, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=environment)
    assert process.stdout and process.stdout.readline() == b"begun\n"
    return process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("dao")
    with (here / "adapter").open("wb") as file:
        for index in range(64):
            file.write(index.to_bytes(4, "big") * (1 << 18))
    return here


@pytest.fixture(scope="module")
def root(folder: Path) -> Cid:
    return build_directory({"adapter": folder / "adapter", "manifest.json": b"{}"})[0]


def test_a_kill_at_any_moment_leaves_a_release_whole_or_not_there(folder: Path, root: Cid) -> None:
    begun = time.monotonic()
    process = start(folder)
    process.communicate()
    whole_time = time.monotonic() - begun
    (folder / "cars" / f"{root}.car").unlink()
    for moment in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95):
        process = start(folder)
        time.sleep(whole_time * moment / 2)
        process.kill()
        process.communicate()
        store = CarStore(folder / "cars")
        if list(store.list()):
            assert store.verify(root).files == 2
            store.car(root).unlink()
        else:
            with pytest.raises(NotFound):
                CarStore(folder / "cars").block(root)
    for part in (folder / "cars").glob("*.part"):
        os.utime(part, (0, 0))
    process = start(folder)
    assert process.communicate()[0] == b"done\n"
    assert CarStore(folder / "cars").verify(root).files == 2
    assert not list((folder / "cars").glob("*.part")), "what the killed ones left is swept"
