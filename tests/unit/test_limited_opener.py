"""A file made to harm costs a token: time, memory and crashes of the decoder stay in a process of its own."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.collection.opener import Limits, PictureOpener
from protocol.errors import BadInput

ART = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
SLOW = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="2000" height="2000">'
    '<filter id="f" x="0" y="0" width="1" height="1"><feTurbulence baseFrequency="0.9" numOctaves="60"/></filter>'
    + '<rect width="2000" height="2000" filter="url(#f)"/>' * 30
    + "</svg>"
).encode()


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_one_process_opens_one_picture_after_the_other() -> None:
    with PictureOpener() as opener:
        assert np.array_equal(opener.open(png(ART), 32), ART)
        with pytest.raises(BadInput, match="a video") as told:
            opener.open(b"\x1aE\xdf\xa3", 32)
        assert told.value.hint
        clear = png(np.zeros((8, 8, 4), dtype=np.uint8))
        assert tuple(opener.open(clear, 32, "#010203")[0, 0]) == (1, 2, 3)


def test_what_takes_too_long_is_ended_and_the_next_picture_is_opened() -> None:
    with PictureOpener(Limits(seconds=1)) as opener:
        with pytest.raises(BadInput, match="more than 1 s to be drawn"):
            opener.open(SLOW, 32)
        assert np.array_equal(opener.open(png(ART), 32), ART)


def test_what_takes_too_much_memory_is_a_reason_and_the_next_picture_is_opened() -> None:
    large = png(np.random.default_rng(0).integers(0, 256, (5000, 5000), dtype=np.uint8))
    with PictureOpener(Limits(megabytes=400)) as opener:
        with pytest.raises(BadInput, match="more than 400 MB"):
            opener.open(large, 32)
        assert np.array_equal(opener.open(png(ART), 32), ART)


def test_the_process_ends_with_the_opener() -> None:
    with PictureOpener() as opener:
        opener.open(png(ART), 32)
        process = opener._running()
    assert process.poll() is not None


def test_a_process_that_was_killed_is_replaced() -> None:
    with PictureOpener() as opener:
        opener.open(png(ART), 32)
        opener._running().kill()
        opener._running().wait()
        assert np.array_equal(opener.open(png(ART), 32), ART)


def test_where_the_kernel_allows_it_the_process_has_no_network() -> None:
    program = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x50000000) != 0)"
    if subprocess.run([sys.executable, "-c", program]).returncode:
        pytest.skip("this kernel keeps namespaces for itself")
    with PictureOpener() as opener:
        opener.open(png(ART), 32)
        network = Path(f"/proc/{opener._running().pid}/net/dev").read_text()
    names = [line.split(":")[0].strip() for line in network.splitlines()[2:]]
    assert names == ["lo"], "and loopback is down there"


def test_opening_pictures_needs_no_torch() -> None:
    root = Path(__file__).parents[2]
    program = "import sys, client.collection.opener, client.collection.dataset; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
