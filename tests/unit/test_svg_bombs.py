"""An SVG may not unfold, nest or filter without end, and is drawn as sharp as the base needs it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from client.collection.picture import open_picture
from protocol.errors import BadInput

SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {size}>{body}</svg>'
SQUARE = 'width="24" height="24"'


def svg(body: str, size: str = SQUARE) -> bytes:
    return SVG.format(size=size, body=body).encode()


def embedded(data: bytes, kind: str) -> str:
    return f'<image width="24" height="24" href="data:image/{kind};base64,{base64.b64encode(data).decode()}"/>'


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def laughs(levels: int) -> str:
    """Ten times ten times ten … rectangles."""
    parts = ['<g id="l0"><rect width="1" height="1"/></g>']
    parts += [f'<g id="l{n}">{f"""<use xlink:href="#l{n - 1}"/>""" * 10}</g>' for n in range(1, levels)]
    return f'<defs>{"".join(parts)}</defs><use href="#l{levels - 1}"/>'


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (laughs(9), "unfolds to more than 200000 elements"),
        ('<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>', "repeats parts of itself"),
        ("<g>" * 5000 + "</g>" * 5000, "nested more than 100"),
        ("<g/>" * 300_000, "more than 200000 elements"),
        (f"<filter>{'<feTurbulence/>' * 200}</filter>", "more than 100 filter effects"),
        (embedded(png(9000), "png"), "embeds pictures of 81000000 pixels"),
        (embedded(svg(embedded(svg(""), "svg+xml")), "svg+xml"), "embeds an SVG that embeds another"),
        (embedded(svg('<image href="/etc/hostname"/>'), "svg+xml"), "outside itself"),
        (embedded(b"\x1f\x8b\x08", "svg+xml"), "no SVG that can be read"),
        (embedded(b"\x89PNG", "png"), "cannot be read"),
        ("<!-- -->" * 600_000, "at most 4194304"),
    ],
)
def test_an_svg_bomb_is_refused_with_its_reason(body: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as told:
        open_picture(svg(body), 32)
    assert told.value.hint


@pytest.mark.parametrize("size", ['width="0" height="0"', 'viewBox="0 0 x y"', 'viewBox="0 0 1e9 1"', ""])
def test_an_svg_without_a_size_is_told_so(size: str) -> None:
    with pytest.raises(BadInput, match=r"size"):
        open_picture(svg("", size), 32)


def test_an_honest_svg_that_repeats_itself_is_drawn() -> None:
    body = '<rect id="r" width="12" height="24" fill="#ff0000"/><use href="#r" x="12"/>'
    assert (open_picture(svg(body), 48) == (255, 0, 0)).all()


def test_a_small_drawing_is_drawn_at_the_bases_size_and_not_blown_up() -> None:
    disc = open_picture(svg('<circle cx="12" cy="12" r="10" fill="#000"/>'), 512)
    edge = ((disc > 0) & (disc < 255)).any(axis=2).mean()
    assert edge < 0.02, "an enlarged 24 x 24 drawing would have soft edges"


def test_pixels_drawn_as_rectangles_stay_pixels_at_any_size() -> None:
    rects = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="#{x * 10:02x}{y * 10:02x}{x * y % 256:02x}"/>'
        for x in range(24)
        for y in range(24)
    )
    drawn = open_picture(svg(rects), 512)
    inner = drawn[4:508, 4:508]
    cells = inner[::21, ::21]
    assert np.array_equal(cells.repeat(21, axis=0).repeat(21, axis=1), inner)
    assert tuple(cells[3, 2]) == (20, 30, 6)
