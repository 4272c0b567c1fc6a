"""In-file vetoes: what a picture's original bytes say of being trained on. They can deny; nothing in them allows.

- **C2PA and CAWG**: the assertions ``c2pa.training-mining`` and ``cawg.training-mining`` of any manifest in the file,
  whether or not its signature holds: a veto needs no proof. Any use but ``allowed`` denies, whichever entry it is for.
- **IPTC**: the PLUS property ``plus:DataMining`` in XMP, found in the bytes wherever a format keeps it.

What saves a picture anew loses both, so this comes first. It feeds hostile bytes to native code, and belongs into
``opener``'s limited process.
"""

import io
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from client.collection.formats import LEFT_OUT, kind_of
from client.collection.text import one_line
from client.media.data import read_data
from protocol.errors import BadInput, NotAllowed

MAX_TEXT_BYTES = 16 << 20
"""Of a PNG's texts, unfolded."""

_MIME = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "SVG": "image/svg+xml",
}
_STORE = b"jumdc2pa"
"""How the box of a manifest store begins (ISO 19566-5), in every format but SVG, which has it in base64."""
_DATA_MINING = re.compile(rb"(ldf/vocab/)?DMI-([A-Z]+(?:-[A-Z]+)*)")
_NO_VETO = (b"UNSPECIFIED", b"ALLOWED")
_EMBEDDED = re.compile(rb"data:image/[^\"'<>]+", re.I)
_PNG = b"\x89PNG\r\n\x1a\n"
# No network, whatever a file names; trust lists would say nothing about a veto.
_C2PA = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "core": {"allowed_network_hosts": []},
}


def require_no_veto(data: bytes, kind: str, *, inside: bool = False) -> None:
    """Look into a picture's original bytes, and into the pictures that an SVG embeds; ``kind`` as ``kind_of`` has it.

    Raises:
        NotAllowed: it carries a veto.
        BadInput: it carries something that may be one and cannot be read.
    """
    for text in (data, *_png_texts(data, kind)):
        _require_no_data_mining_veto(text)
    if _STORE in data or (kind == "SVG" and b"c2pa" in data):
        _require_no_c2pa_veto(data, kind)
    if kind == "SVG" and not inside:
        for match in _EMBEDDED.finditer(data):
            _require_none_embedded(match[0])


def _require_no_data_mining_veto(text: bytes) -> None:
    """PLUS LDF 2.0.1: unspecified and allowed are none; every other value is, also one that is not known yet."""
    for vocabulary, name in _DATA_MINING.findall(text):
        if name not in _NO_VETO and (vocabulary or name.startswith(b"PROHIBITED")):
            raise _veto("IPTC", f"plus:DataMining is DMI-{name.decode()[:60]}")


def _require_no_c2pa_veto(data: bytes, kind: str) -> None:
    unread = "The picture carries C2PA content credentials that cannot be read, and so perhaps a veto"
    try:
        import c2pa
    except (ImportError, OSError) as error:
        raise BadInput(
            f"{unread}: c2pa-python is not installed here.", "Install it: pip install c2pa-python."
        ) from error
    try:
        context = c2pa.Context.from_dict(_C2PA)
        manifests = json.loads(c2pa.Reader(_MIME[kind], io.BytesIO(data), context=context).json())["manifests"]
        assertions = [one for manifest in manifests.values() for one in manifest.get("assertions", ())]
    except c2pa.C2paError.ManifestNotFound:
        return
    except (c2pa.C2paError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput(f"{unread}.", LEFT_OUT) from error
    for one in assertions:
        if ".training-mining" in one["label"]:
            _require_allowed(one["label"], one.get("data"))


def _require_allowed(label: str, data: Any) -> None:
    """CAWG training and data mining assertion 1.1, and C2PA 1.4's, whose entries have other names."""
    entries = data.get("entries") if isinstance(data, Mapping) else None
    if not isinstance(entries, Mapping):
        raise _veto("C2PA", f"{one_line(label, 60)} says what is not understood")
    for name, entry in entries.items():
        use = entry.get("use") if isinstance(entry, Mapping) else entry
        if use != "allowed":
            raise _veto("C2PA", f"{one_line(label, 60)} has {one_line(name, 60)} as {one_line(str(use), 40)}")


def _require_none_embedded(uri: bytes) -> None:
    try:
        picture = read_data(uri.decode("utf-8")[5:], "")
        kind = kind_of(picture)
    except (BadInput, UnicodeDecodeError):
        return  # it is not drawn either
    require_no_veto(picture, kind, inside=True)


def _png_texts(data: bytes, kind: str) -> Iterator[bytes]:
    """Texts that do not stand in a PNG as they are: compressed ones, and ImageMagick's in hexadecimal digits."""
    at = len(_PNG) if kind == "PNG" else len(data)
    room = MAX_TEXT_BYTES
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        at += 12 + length
        text = _text(name, body, room)
        room -= len(text)
        if text:
            yield text
            if body.startswith(b"Raw profile type"):
                yield re.sub(rb"[0-9a-fA-F]{2}|\s", _digits, text)


def _text(name: bytes, body: bytes, room: int) -> bytes:
    """Of a zTXt, tEXt or iTXt chunk (PNG, third edition, section 11.3.3); nothing for others and for broken ones."""
    _, _, rest = body.partition(b"\0")
    if name == b"tEXt":
        return rest
    if name == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    elif name == b"zTXt":
        packed = rest[1:]
    else:
        return b""
    try:
        stream = zlib.decompressobj()
        text = stream.decompress(packed, room + 1)
    except zlib.error:
        return b""
    if len(text) > room:
        raise BadInput(f"The picture's texts unfold to more than {MAX_TEXT_BYTES >> 20} MiB.", LEFT_OUT)
    return text


def _digits(match: re.Match[bytes]) -> bytes:
    return b"" if match[0].isspace() else bytes.fromhex(match[0].decode())


def _veto(standard: str, said: str) -> NotAllowed:
    return NotAllowed(f"The picture itself forbids training ({standard}: {said}).", LEFT_OUT)
