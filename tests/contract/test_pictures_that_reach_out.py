"""A picture made to reach a server, a file of this machine, or its last byte of memory: it costs its token."""

import base64
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Server
from PIL import Image
from veto_parts import picture, with_chunk, with_xmp

from client.collection.opener import Limits, PictureOpener
from protocol.errors import BadInput

pytestmark = pytest.mark.slow
SIZE = 'width="32" height="32"'
NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
SECRET = (255, 0, 255)

# {it} is a server's address or a file's path.
REACHING = (
    "<image {size} href='{it}'/>",
    "<image {size} xlink:href='{it}'/>",
    "<image {size} href='\n {it}'/>",
    "<image {size} src='{it}'/>",
    "<image {size} href='data:image/png,{it}'/>",
    "<image {size} href='data:image/svg+xml,{it}'/>",
    "<image {size} href='data:text/plain,{it}'/>",
    "<image {size} href='url({it})'/>",
    "<image {size}><set attributeName='href' to='{it}'/></image>",
    "<image {size}><animate attributeName='href' values='{it}' dur='1s'/></image>",
    "<g xml:base='{it}'><image {size} href='1.png'/></g>",
    "<use href='{it}#a'/>",
    "<use xlink:href='{it}'/>",
    "<rect {size} fill='url({it}#a)'/>",
    "<rect {size} style='fill:url({it}#a);filter:url({it}#b);mask:url({it}#c);clip-path:url({it}#d)'/>",
    "<rect {size} style='background:url({it})'/>",
    "<rect {size} cursor='url({it})'/>",
    "<style>@import url({it});</style><rect {size}/>",
    "<style>@import '{it}';</style><rect {size}/>",
    "<style>@font-face{{font-family:x;src:url({it})}} text{{font-family:x}}</style><text y='20'>a</text>",
    "<style>rect{{fill:url({it}#a);background:url({it})}}</style><rect {size}/>",
    "<style>image{{href:url({it})}}</style><image {size}/>",
    "<linearGradient id='g' href='{it}#a'/><rect {size} fill='url(#g)'/>",
    "<pattern id='p' {size}><image {size} href='{it}'/></pattern><rect {size} fill='url(#p)'/>",
    "<filter id='f'><feImage href='{it}'/></filter><rect {size} filter='url(#f)'/>",
    "<text y='20'><tref xlink:href='{it}'/></text>",
    "<text y='20'><textPath href='{it}#a'>a</textPath></text>",
    "<color-profile xlink:href='{it}'/>",
    "<script>fetch('{it}')</script>",
    "<script href='{it}'/>",
    "<script src='{it}'/>",
    "<script xlink:href='{it}'/>",
    "<g onload=\"fetch('{it}')\"><rect {size} onclick=\"location='{it}'\"/></g>",
    "<a href='javascript:fetch(1)'><rect {size}/></a>",
    "<a href='{it}'><rect {size}/></a>",
    "<foreignObject {size}><iframe xmlns='http://www.w3.org/1999/xhtml' src='{it}'/></foreignObject>",
    "<foreignObject {size}><img xmlns='http://www.w3.org/1999/xhtml' src='{it}'/></foreignObject>",
    "<foreignObject {size}><object xmlns='http://www.w3.org/1999/xhtml' data='{it}'/></foreignObject>",
    "<foreignObject {size}><link xmlns='http://www.w3.org/1999/xhtml' rel='stylesheet' href='{it}'/></foreignObject>",
    "<video xmlns='http://www.w3.org/1999/xhtml' src='{it}'/>",
    "<include xmlns='http://www.w3.org/2001/XInclude' href='{it}' parse='text'/>",
    "<metadata><image {size} href='{it}'/></metadata>",
)
BEFORE = (
    "<?xml-stylesheet type='text/css' href='{it}'?>",
    "<?xml-stylesheet type='text/xsl' href='{it}'?>",
    "<!DOCTYPE svg SYSTEM '{it}'>",
    "<!DOCTYPE svg PUBLIC 'x' '{it}'>",
    "<!DOCTYPE svg [<!ENTITY x SYSTEM '{it}'>]>",
    "<!DOCTYPE svg [<!ENTITY % x SYSTEM '{it}'> %x;]>",
)


@pytest.fixture(scope="module")
def opener() -> Iterator[PictureOpener]:
    with PictureOpener(Limits(seconds=10)) as opener:
        yield opener


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(lambda *_: (200, {}, secret())) as server:
        yield server


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("private") / "1.png"
    path.write_bytes(secret())
    return path


def secret() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), SECRET).save(data, "PNG")
    return data.getvalue()


def shown(opener: PictureOpener, data: bytes) -> np.ndarray | None:
    """The picture, or None where it is refused with a sentence."""
    try:
        return opener.open(data, 32)
    except BadInput as refusal:
        assert refusal.message.endswith(".") and refusal.hint
        return None


@pytest.mark.parametrize("inside", [False, True], ids=["", "inside another SVG"])
@pytest.mark.parametrize("form", [*REACHING, *BEFORE])
def test_an_svg_reaches_no_server_and_no_file(
    opener: PictureOpener, server: Server, file: Path, form: str, inside: bool
) -> None:
    for it in (server.url, f"{server.url}/1.png", str(file), f"file://{file}", f"FILE://{file}", f"//{server.url[7:]}"):
        text = form.format(it=it, size=SIZE)
        before, body = (text, "") if form in BEFORE else ("", text)
        data = f"{before}<svg {NAMES} {SIZE}>{body}</svg>".encode()
        if inside:
            uri = f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}"
            data = f"<svg {NAMES} {SIZE}><image {SIZE} href='{uri}'/></svg>".encode()
        drawn = shown(opener, data)
        assert drawn is None or not (drawn == SECRET).all(axis=2).any()
    assert server.asked == []


def test_content_credentials_elsewhere_are_not_fetched(opener: PictureOpener, server: Server) -> None:
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" '
        f'dcterms:provenance="{server.url}/manifest.c2pa"/></rdf:RDF></x:xmpmeta>'
    ).encode()
    for kind in ("PNG", "JPEG"):
        remote = with_xmp(picture(kind), kind, packet)
        assert shown(opener, remote) is not None
        shown(opener, remote + b"jumdc2pa")
    assert server.asked == []


def header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", b"\0" * (50 << 20))
    return file.getvalue()


def frames(kind: str, count: int) -> bytes:
    file = io.BytesIO()
    first, *rest = (Image.new("P", (64, 64), number % 256) for number in range(count))
    first.save(file, kind, save_all=True, append_images=rest)
    return file.getvalue()


ENDLESS = zlib.compress(b"\0" * (300 << 20), 9)
BOMBS = {
    "a zip": zipped(),
    "an SVG in gzip": gzip.compress(b"<svg xmlns='http://www.w3.org/2000/svg'>" + b" " * (50 << 20)),
    "a PNG of 60000 x 60000": header(60_000, 60_000) + chunk(b"IDAT", ENDLESS) + chunk(b"IEND", b""),
    "a PNG of 1 x 2147483647": header(1, 2**31 - 1) + chunk(b"IDAT", ENDLESS) + chunk(b"IEND", b""),
    "a PNG of 0 x 0": header(0, 0) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
    "a PNG with far more than its pixels": header(1, 1) + chunk(b"IDAT", ENDLESS) + chunk(b"IEND", b""),
    "a PNG with an endless colour profile": with_chunk(picture("PNG"), b"iCCP", b"x\0\0" + ENDLESS),
    "a PNG with an endless text": with_chunk(picture("PNG"), b"iTXt", b"x\0\1\0\0\0" + ENDLESS),
    "a PNG with a million chunks": header(32, 32) + chunk(b"tEXt", b"a\0b") * 500_000,
    "a PNG whose chunk has no end": header(32, 32) + struct.pack(">I4s", 2**31 - 1, b"IDAT"),
    "a GIF of 65535 x 65535": b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;",
    "a GIF of many frames": frames("GIF", 500),
    "a WebP of 16384 x 16384": b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0",
    "a JPEG of 65500 x 65500": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\3\1\x22\0\2\x11\1\3\x11\1" + b"\xff\xd9",
    "a JPEG of nothing but headers": b"\xff\xd8" + (b"\xff\xe1\xff\xff" + b"\0" * 65533) * 100,
    "an AVIF of boxes in boxes": struct.pack(">I8s", 32, b"ftypavif") + b"\0" * 20 + b"\0\0\0\x08meta" * 100_000,
    "an SVG of a billion laughs": b"<!DOCTYPE svg [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]><svg>&b;</svg>",
    "an SVG in UTF-16": f"<!DOCTYPE svg [<!ENTITY a 'ha'>]><svg {NAMES} {SIZE}>&a;</svg>".encode("utf-16"),
    "an SVG with an attribute of megabytes": f"<svg {NAMES} {SIZE}><path d='{'M0 0' * 900_000}'/></svg>".encode(),
    "an SVG of huge text": f"<svg {NAMES} {SIZE}><text font-size='1e30'>{'a' * 3_000}</text></svg>".encode(),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_its_token_and_the_next_picture_is_opened(opener: PictureOpener, name: str) -> None:
    drawn = shown(opener, BOMBS[name])
    assert drawn is None or drawn.shape == (32, 32, 3)
    assert shown(opener, picture("PNG")) is not None
