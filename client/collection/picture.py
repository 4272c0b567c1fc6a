"""Bytes → picture: opened within bounds, upright, in sRGB, on the token's own background, at a shape for training.

Pure but for the decoders. What is hostile goes through ``opener`` instead, which does this in a limited process.
"""

import io
import struct

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps

from client.collection.example import Picture
from client.collection.formats import LEFT_OUT, kind_of
from client.collection.shapes import WHITE, Colour, shape_for, shapes_of, to_shape
from client.collection.svg import draw_svg
from protocol.errors import BadInput, CoterieError

MAX_PIXELS = 40_000_000
MAX_SIDE = 16_384
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def open_picture(data: bytes, size: int, background: str = "") -> Picture:
    """uint8 (h, w, 3) of a still picture, or of an animation's first frame, in one of ``shapes_of(size)``.

    ``background`` is a CSS colour that transparent parts show; white if it is none.

    Raises:
        BadInput: no picture, broken, too large, or reaching for something outside itself.
    """
    kind = kind_of(data)
    image = draw_svg(data, size) if kind == "SVG" else _open_raster(data, kind)
    picture = np.asarray(_on_background(image, colour_of(background) or WHITE))
    shape = shape_for(picture.shape[0], picture.shape[1], shapes_of(size))
    return to_shape(picture, shape, colour_of(background))


def colour_of(name: str) -> Colour | None:
    """A CSS colour's red, green and blue; None for any other word."""
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        return None
    return red, green, blue


def _open_raster(data: bytes, kind: str) -> Image.Image:
    """The first frame, RGBA, upright."""
    try:
        if kind == "WEBP":
            _check_size(*_webp_size(data))  # Pillow makes room for the frame when it only opens the file
        image = Image.open(io.BytesIO(data), formats=[kind])
        _check_size(*image.size)
        image.load()
        _check_size(*image.size)
        return _to_rgba(ImageOps.exif_transpose(image))
    except CoterieError:
        raise
    except Image.DecompressionBombError as error:
        raise BadInput(
            f"The picture has far more than the {MAX_PIXELS // 10**6} megapixels that are taken.", LEFT_OUT
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a decoder fed with hostile bytes raises many types
        raise BadInput(f"The image is a {kind} that is cut off or damaged.", LEFT_OUT) from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"The picture is {width} x {height} pixels; at most {MAX_PIXELS // 10**6} megapixels are taken.", LEFT_OUT
        )
    if max(width, height) > MAX_SIDE:
        raise BadInput(f"The picture is {width} x {height} pixels; at most {MAX_SIDE} a side are taken.", LEFT_OUT)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels by the header (RFC 9649, sections 2.5 to 2.7)."""
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            (bits,) = struct.unpack("<I", data[21:25])
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case _:
            width, height = struct.unpack("<HH", data[26:30])
            return width & 0x3FFF, height & 0x3FFF


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        # Pillow would cut 16 bits off at 255 instead of scaling them down.
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray((deep >> 8).clip(0, 255).astype(np.uint8))
    return _to_srgb(image).convert("RGBA")


def _to_srgb(image: Image.Image) -> Image.Image:
    """By the embedded colour profile. One that is sRGB anyway changes nothing, a broken one neither."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        mode = "RGB" if image.mode == "CMYK" else image.mode
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _on_background(image: Image.Image, background: Colour) -> Image.Image:
    backdrop = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(backdrop, image).convert("RGB")
