"""Bytes → picture: SVG and PNG, drawn within bounds and brought to the base's size without blurring pixel art."""

import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import resvg_py
from PIL import Image, ImageColor, ImageOps

from client.collection.example import Picture
from client.collection.metadata import read_uri
from protocol.errors import BadInput, CoterieError

MAX_SIDE = 4096
"""Pixels; a larger SVG is drawn smaller, a larger PNG is refused."""
MAX_SVG_BYTES = 4 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_WHITE = (255, 255, 255)
_LENGTH = re.compile(r"^\s*(\d{1,6}(?:\.\d*)?)\s*(?:px)?\s*$")


def open_picture(data: bytes, size: int, background: str = "") -> Picture:
    """uint8 (size, size, 3) of an SVG or PNG.

    ``background`` is a CSS colour that transparent parts show; white if it is none.

    Raises:
        BadInput: neither SVG nor PNG, broken, too large, or reaching for something outside itself.
    """
    image = _open_png(data) if data.startswith(_PNG) else _draw_svg(data)
    backdrop = Image.new("RGBA", image.size, (*_colour(background), 255))
    flat = Image.alpha_composite(backdrop, image).convert("RGB")
    return to_size(np.asarray(flat), size, _colour(background))


def to_size(picture: Picture, size: int, background: tuple[int, int, int] = _WHITE) -> Picture:
    """(h, w, 3) → (size, size, 3): pixel art cell by cell, anything else by LANCZOS, padded to a square."""
    height, width = picture.shape[:2]
    scale = height // size
    if height == width and scale * size == height:
        cells = picture[scale // 2 :: scale, scale // 2 :: scale]
        if np.array_equal(cells.repeat(scale, axis=0).repeat(scale, axis=1), picture):
            return np.ascontiguousarray(cells)
    image = ImageOps.pad(Image.fromarray(picture), (size, size), Image.Resampling.LANCZOS, color=background)
    return np.asarray(image).copy()


def _open_png(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        _check_side(*image.size)
        return image.convert("RGBA")
    except CoterieError:
        raise
    except Exception as error:  # a decoder fed with hostile bytes raises many types
        raise BadInput("The image is no PNG that can be read.") from error


def _draw_svg(data: bytes) -> Image.Image:
    text, root = _parse_svg(data)
    width, height = _natural_size(root)
    scale = min(1.0, MAX_SIDE / max(width, height))
    has_text = any(_local(element.tag) == "text" for element in root.iter())
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=text,
            width=max(1, round(width * scale)),
            height=max(1, round(height * scale)),
            skip_system_fonts=not has_text,
        )
    except ValueError as error:
        raise BadInput("The image is no SVG that can be drawn.") from error
    return Image.open(io.BytesIO(bytes(png)), formats=["PNG"]).convert("RGBA")


def _parse_svg(data: bytes) -> tuple[str, ElementTree.Element]:
    """Text and root of an SVG that names nothing outside itself."""
    if len(data) > MAX_SVG_BYTES:
        raise BadInput(f"The SVG is {len(data)} bytes; at most {MAX_SVG_BYTES} are taken.")
    if b"<!ENTITY" in data:
        raise BadInput("The SVG declares entities, which could hide what it reaches for.")
    try:
        text = data.decode("utf-8-sig")
        root = ElementTree.fromstring(text)  # noqa: S314 - without entities expat expands and loads nothing
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise BadInput("The image is neither a PNG nor an SVG.") from error
    if _local(root.tag) != "svg":
        raise BadInput("The image is neither a PNG nor an SVG.")
    for element in root.iter():
        for name, value in element.attrib.items():
            if _local(name) == "href":
                _check_reference(value.strip())
    return text, root


def _check_reference(reference: str) -> None:
    """resvg would open a path as a local file; only parts of the SVG itself and embedded pictures are allowed."""
    if reference.startswith("#") or reference.lower().startswith("data:image/svg"):
        return
    if not reference.lower().startswith("data:image/"):
        raise BadInput("The SVG reaches for something outside itself.")
    data = read_uri(reference, _no_files, MAX_SVG_BYTES, "A picture in the SVG")
    try:
        size = Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "GIF", "WEBP"]).size
    except Exception as error:
        raise BadInput("The SVG embeds a picture that cannot be read.") from error
    _check_side(*size)


def _no_files(path: str, max_bytes: int) -> bytes:
    raise BadInput("The SVG reaches for something outside itself.")


def _natural_size(root: ElementTree.Element) -> tuple[float, float]:
    """Width and height in pixels as the SVG has them, else those of its viewBox."""
    sides = [_LENGTH.match(root.get(name, "")) for name in ("width", "height")]
    if sides[0] and sides[1]:
        width, height = float(sides[0][1]), float(sides[1][1])
    else:
        box = re.split(r"[\s,]+", root.get("viewBox", "").strip())
        try:
            _, _, width, height = (float(number) for number in box)
        except ValueError as error:
            raise BadInput("The SVG has no size in pixels and no viewBox.") from error
    if not (0 < width < 1e6 and 0 < height < 1e6):
        raise BadInput("The SVG's size is no size.")
    return width, height


def _check_side(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise BadInput(f"The picture is {width} x {height} pixels; at most {MAX_SIDE} a side are taken.")


def _colour(name: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        return _WHITE


def _local(name: object) -> str:
    """An XML name without its namespace; comments and the like have none."""
    return name.rpartition("}")[2] if isinstance(name, str) else ""
