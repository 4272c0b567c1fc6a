"""Pictures from SVG and PNG, drawn by the real renderers."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bases.nouns_art import svg
from client.collection.picture import open_picture
from client.collection.shapes import to_shape
from protocol.errors import BadInput

SVG = '<svg width="{w}" height="{h}" viewBox="0 0 {w} {h}" xmlns="http://www.w3.org/2000/svg">{body}</svg>'


def pixel_art() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_a_noun_drawn_on_the_chain_comes_back_pixel_by_pixel() -> None:
    assert np.array_equal(open_picture(svg(pixel_art()).encode(), 32), pixel_art())


def test_pixel_art_is_sampled_and_never_blurred() -> None:
    large = pixel_art().repeat(7, axis=0).repeat(7, axis=1)
    assert np.array_equal(open_picture(png(large), 32), pixel_art())


def test_what_is_no_pixel_art_is_averaged_and_not_sampled() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    small = to_shape(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), (32, 32))
    assert 120 < small[8:24, 8:24].mean() < 135
    assert small[8:24, 8:24].std() < 10


def test_a_picture_that_is_not_square_is_padded_and_not_stretched() -> None:
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[0, 0] = 9
    picture = to_shape(wide, (32, 32))
    assert picture.shape == (32, 32, 3)
    assert picture[0].min() == 255
    assert picture[16].max() == 0


@pytest.mark.parametrize(
    ("background", "expected"), [("#102030", (16, 32, 48)), ("red", (255, 0, 0)), ("cool", (255, 255, 255))]
)
def test_transparent_parts_show_the_tokens_own_background_else_white(
    background: str, expected: tuple[int, int, int]
) -> None:
    clear = np.zeros((32, 32, 4), dtype=np.uint8)
    assert tuple(open_picture(png(clear), 32, background)[5, 5]) == expected


@pytest.mark.parametrize("reference", ["/etc/hostname", "secret.png", "file:///etc/hostname", "http://10.0.0.1/x.png"])
def test_an_svg_that_reaches_outside_itself_is_refused(reference: str) -> None:
    for name in ("href", "xlink:href"):
        body = f'<image xmlns:xlink="http://www.w3.org/1999/xlink" width="9" height="9" {name}="{reference}"/>'
        with pytest.raises(BadInput, match="outside itself"):
            open_picture(SVG.format(w=32, h=32, body=body).encode(), 32)


def test_an_svg_cannot_show_a_file_of_the_members_machine(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(png(np.zeros((8, 8, 3), dtype=np.uint8)))
    hidden = '<!DOCTYPE svg [<!ENTITY p "{path}">]>' + SVG.format(w=32, h=32, body='<image href="&p;"/>')
    with pytest.raises(BadInput, match="entities"):
        open_picture(hidden.replace("{path}", str(tmp_path / "private.png")).encode(), 32)


def test_an_svg_may_embed_a_picture() -> None:
    uri = "data:image/png;base64," + base64.b64encode(png(np.full((8, 8, 3), 9, dtype=np.uint8))).decode()
    body = f'<image width="32" height="32" href="{uri}"/>'
    assert open_picture(SVG.format(w=32, h=32, body=body).encode(), 32)[16, 16].max() == 9


def test_a_huge_svg_is_drawn_within_bounds() -> None:
    body = '<rect width="100%" height="100%" fill="#ff0000"/>'
    picture = open_picture(SVG.format(w=900_000, h=900_000, body=body).encode(), 32)
    assert (picture == (255, 0, 0)).all()


def test_a_huge_png_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(BadInput, match="at most 16384 a side"):
        open_picture(png(np.zeros((1, 20_000), dtype=np.uint8)), 32)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<html/>", b"\x89PNG\r\n\x1a\nbroken", b"<svg/>", b"\xff\xfe<"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        open_picture(data, 32)
