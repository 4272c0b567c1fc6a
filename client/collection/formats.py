"""What a token's image is, told from its first bytes: the kinds that are opened, and names for those that are not."""

import re
from collections.abc import Mapping

from protocol.errors import BadInput

STILL = "PNG, JPEG, GIF, WebP, AVIF and SVG"
LEFT_OUT = "The token is left out; nothing has to be done."

_START = b"(?:\xef\xbb\xbf)?\\s*"
_RASTER: Mapping[str, re.Pattern[bytes]] = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.S),
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.S),
}
_OTHERS: Mapping[str, re.Pattern[bytes]] = {
    "a video (WebM)": re.compile(rb"\x1aE\xdf\xa3"),
    "a video (AVI)": re.compile(rb"RIFF.{4}AVI ", re.S),
    "a HEIC picture": re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.S),
    "a video (MP4)": re.compile(rb".{4}(?:ftyp|moov|mdat)", re.S),
    "a video (Ogg)": re.compile(rb"OggS"),
    "a sound": re.compile(rb"ID3|\xff[\xfb\xf3\xf2]|fLaC|RIFF.{4}WAVE", re.S),
    "a 3D model (GLB)": re.compile(rb"glTF"),
    "a PDF": re.compile(rb"%PDF"),
    "a TIFF picture": re.compile(rb"II\*\0|MM\0\*"),
    "a BMP picture": re.compile(rb"BM.{4}\0{4}", re.S),
    "a compressed file": re.compile(rb"\x1f\x8b|PK\x03\x04"),
    "a web page (HTML)": re.compile(
        _START + rb"(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head|body|script)\b", re.I | re.S
    ),
    "JSON": re.compile(_START + rb"[{\[]"),
}


def kind_of(data: bytes) -> str:
    """``"SVG"`` or the name that Pillow has for the format.

    Raises:
        BadInput: nothing that is opened here; what it is, where that can be told.
    """
    for kind, magic in _RASTER.items():
        if magic.match(data):
            return kind
    if not data:
        raise BadInput("The image is an empty file.", LEFT_OUT)
    for name, magic in _OTHERS.items():
        if magic.match(data[:4096]):
            raise BadInput(f"The image is {name}; only still pictures are trained on: {STILL}.", LEFT_OUT)
    if re.match(_START + b"<", data[:4096]):
        return "SVG"
    raise BadInput(f"The image is nothing that is known here; {STILL} are opened.", LEFT_OUT)
