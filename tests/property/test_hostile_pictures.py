"""Any bytes at all: a picture of one of the shapes, or BadInput with a sentence; never anything else."""

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from client.collection.captions import MAX_CAPTION, CaptionStyle, caption
from client.collection.metadata import Metadata, read_metadata
from client.collection.opener import Limits, PictureOpener
from client.collection.shapes import shapes_of
from client.media.resolver import Media
from protocol.errors import BadInput

SVG_PIECES = (
    "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>",
    "<svg viewBox='0 0 9 9'>",
    "</svg>",
    "<g id='a' filter='url(#f)' mask='url(#a)' clip-path='url(#a)'>",
    "</g>",
    "<use href='#a'/>",
    "<use href='#b' id='b'/>",
    "<filter id='f'><feGaussianBlur stdDeviation='1e9'/><feImage href='#a'/></filter>",
    "<pattern id='p' width='1e-9' height='1e-9'><rect fill='url(#p)' width='9' height='9'/></pattern>",
    "<rect width='1e38' height='NaN' rx='-1' fill='url(#p)' transform='scale(1e30)'/>",
    "<path d='M0 0L1e38 1e38Z' stroke-dasharray='1e-9' stroke='red' stroke-width='1e20'/>",
    "<text font-size='1e9'>\u202e木</text>",
    "<image href='data:image/png;base64,AAAA' width='9' height='9'/>",
    "<style>*{fill:url(#p)}</style>",
    "<!--",
    "&#0;",
)


def samples() -> list[bytes]:
    art = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8))
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "AVIF")
    files = []
    for kind in kinds:
        file = io.BytesIO()
        (art.convert("RGB") if kind == "JPEG" else art).save(file, kind)
        files.append(file.getvalue())
    return files


SAMPLES = samples()


@pytest.fixture(scope="module")
def opener() -> Iterator[PictureOpener]:
    with PictureOpener(Limits(seconds=10)) as opener:
        yield opener


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real picture with some bytes changed, and perhaps cut off."""
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(1, len(data)))] if draw(st.booleans()) else data)


drawings = st.lists(st.sampled_from(SVG_PIECES), max_size=12).map(
    lambda pieces: f"{SVG_PIECES[0]}{''.join(pieces)}</svg>"
)


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(st.binary(max_size=400), damaged(), drawings.map(str.encode)),
    st.text(max_size=12),
    st.sampled_from([32, 256]),
)
def test_any_bytes_are_a_picture_or_bad_input(opener: PictureOpener, data: bytes, background: str, size: int) -> None:
    try:
        picture = opener.open(data, size, background)
    except BadInput as refusal:
        assert refusal.message.endswith(".")
        assert refusal.hint.endswith(".")
        return
    assert picture.dtype == np.uint8
    assert picture.shape[:2] in shapes_of(size)
    assert picture.shape[2] == 3


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["name", "image", "image_url", "image_data", "attributes", "traits", "background_color"])
traits = st.lists(st.fixed_dictionaries({"trait_type": json_values, "value": json_values}), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, json_values | traits, max_size=7))
def test_any_metadata_is_read_or_bad_input_and_its_caption_is_one_bounded_line(document: dict[str, object]) -> None:
    def fetch(path: str, max_bytes: int) -> bytes:
        return json.dumps(document).encode()

    try:
        said = caption(read_metadata("ipfs://a", Media(fetch)), CaptionStyle(trigger="zxc"))
    except BadInput:
        return
    assert 0 < len(said.text) <= MAX_CAPTION
    assert said.text == " ".join(said.text.split())
    assert "\x1b" not in said.text
    said.text.encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=300)), max_size=100))
def test_phrases_stay_whole_whatever_the_traits(pairs: list[tuple[str, str]]) -> None:
    said = caption(Metadata("name", tuple(pairs), "", ""))
    assert len(said.text) <= MAX_CAPTION
    assert all(phrase in said.text for phrase in said.phrases)
