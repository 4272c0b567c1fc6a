"""Whatever a token's image may be: opened as it was meant to look, or refused in a sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from client.collection.picture import MAX_PIXELS, open_picture
from protocol.errors import BadInput

ART = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image | NDArray[np.generic], kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def plain(colour: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (32, 32), colour)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})]
)
def test_what_loses_nothing_comes_back_pixel_by_pixel_and_avif_nearly(kind: str, options: dict[str, object]) -> None:
    opened = open_picture(encoded(ART, kind, **options), 32).astype(int)
    assert np.abs(opened - ART).max() <= (4 if kind == "AVIF" else 0)


def test_a_jpeg_comes_back_nearly() -> None:
    smooth = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    opened = open_picture(encoded(smooth, "JPEG", quality=95), 32).astype(int)
    assert np.abs(opened - smooth).mean() < 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = encoded(plain(RED), kind, save_all=True, append_images=[plain(BLUE), plain(BLUE)], duration=100)
    assert np.abs(open_picture(frames, 32)[16, 16].astype(int) - RED).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_shows_the_tokens_background(kind: str) -> None:
    clear = encoded(plain((0, 0, 0, 0), "RGBA"), kind)
    assert tuple(open_picture(clear, 32, "#102030")[3, 3]) == (16, 32, 48)


def test_half_transparency_is_mixed_with_the_background() -> None:
    half = encoded(plain((255, 0, 0, 128), "RGBA"), "PNG")
    assert tuple(open_picture(half, 32, "#0000ff")[3, 3]) == (128, 0, 127)


def test_a_palette_keeps_its_colours_and_its_transparent_one() -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([*RED, *BLUE])
    assert tuple(open_picture(encoded(image, "PNG"), 32)[3, 3]) == BLUE
    for kind in ("PNG", "GIF"):
        assert tuple(open_picture(encoded(image, kind, transparency=1), 32, "lime")[3, 3]) == (0, 255, 0)


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    steps = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    opened = open_picture(encoded(Image.fromarray(steps), "PNG"), 32)
    assert np.array_equal(opened[..., 0], steps >> 8)


def test_grey_and_cmyk_become_colours() -> None:
    assert tuple(open_picture(encoded(plain((77,), "L"), "PNG"), 32)[3, 3]) == (77, 77, 77)
    assert tuple(open_picture(encoded(plain((77, 255), "LA"), "PNG"), 32)[3, 3]) == (77, 77, 77)
    ink = open_picture(encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=100), 32)[3, 3]
    assert np.abs(ink.astype(int) - RED).max() < 4


def test_a_photograph_taken_sideways_stands_upright() -> None:
    sideways = Image.fromarray(np.rot90(ART))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(open_picture(encoded(sideways, "PNG", exif=exif), 32), ART)


def test_a_colour_profile_is_applied_and_srgb_changes_nothing() -> None:
    grey = plain((120, 120, 120))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert tuple(open_picture(encoded(grey, "PNG", icc_profile=srgb), 32)[3, 3]) == (120, 120, 120)
    assert tuple(open_picture(encoded(grey, "PNG", icc_profile=b"no profile"), 32)[3, 3]) == (120, 120, 120)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video (MP4)"),
        (b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01", "a video (WebM)"),
        (b"RIFF\0\0\0\0AVI LIST", "a video (AVI)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"glTF\x02\0\0\0", "a 3D model (GLB)"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html><body>", "a web page (HTML)"),
        (b"<html><canvas/></html>", "a web page (HTML)"),
        (b"%PDF-1.7", "a PDF"),
        (b"II*\0\x08\0\0\0", "a TIFF picture"),
        (b"ID3\x04\0", "a sound"),
        (b"\x1f\x8b\x08\0", "a compressed file"),
        (b'{"error": "not found"}', "JSON"),
    ],
)
def test_what_is_no_still_picture_is_called_by_its_name(data: bytes, name: str) -> None:
    with pytest.raises(BadInput) as told:
        open_picture(data, 32)
    assert told.value.message.startswith(f"The image is {name}; only still pictures are trained on: PNG, JPEG")
    assert told.value.hint == "The token is left out; nothing has to be done."


@pytest.mark.parametrize(("data", "said"), [(b"", "empty file"), (b"hello", "nothing that is known here")])
def test_nothing_and_nonsense_are_told_apart(data: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        open_picture(data, 32)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
def test_a_file_that_was_cut_off_is_told_as_such(kind: str) -> None:
    whole = encoded(ART.repeat(8, axis=0).repeat(8, axis=1), kind)
    with pytest.raises(BadInput, match=f"The image is a {kind} that is cut off or damaged"):
        open_picture(whole[: len(whole) // 2], 32)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (20_000, 10_000, "far more than the 40 megapixels"),
        (8_000, 8_000, "8000 x 8000 pixels; at most 40 megapixels"),
        (30_000, 2, "30000 x 2 pixels; at most 16384 a side"),
    ],
)
def test_a_bomb_is_refused_by_its_header(width: int, height: int, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        open_picture(png_header(width, height), 32)
    assert MAX_PIXELS < 8_000 * 8_000


def test_a_webp_is_measured_before_room_is_made_for_it() -> None:
    extended = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + 2 * (16_382).to_bytes(3, "little")
    lossless = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", 16_382 | 16_382 << 14)
    lossy = b"VP8 " + struct.pack("<I", 10) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)
    for body in (extended, lossless, lossy):
        with pytest.raises(BadInput, match="16383 x 16383 pixels; at most 40 megapixels"):
            open_picture(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, 32)
