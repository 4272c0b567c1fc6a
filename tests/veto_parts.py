"""Pictures that forbid training, made as the programs make them that write such things."""

import io
import json
import struct
import zlib
from collections.abc import Mapping

import c2pa
from cryptography.x509.oid import ExtendedKeyUsageOID
from PIL import Image
from tls_parts import Authority

MIME = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp", "AVIF": "avif", "SVG": "svg+xml"}
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
_CREATED = {
    "action": "c2pa.created",
    "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCreation",
}
_EXTENDED = b"http://ns.adobe.com/xap/1.0/\0"


def picture(kind: str, side: int = 32) -> bytes:
    """A plain one."""
    if kind == "SVG":
        return b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><rect width="9" height="9"/></svg>'
    file = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 200)).save(file, kind)
    return file.getvalue()


def with_c2pa(data: bytes, kind: str, entries: object, label: str = "cawg.training-mining") -> bytes:
    """The picture with signed content credentials that say so."""
    certificates, key = Authority().issue("signer", ExtendedKeyUsageOID.EMAIL_PROTECTION)
    mime = f"image/{MIME[kind]}"
    manifest = {
        "claim_generator_info": [{"name": "Coterie tests", "version": "1"}],
        "format": mime,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [_CREATED]}},
            {"label": label, "data": {"entries": entries}},
        ],
    }
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", certificates, key, None))
    file = io.BytesIO()
    c2pa.Builder(json.dumps(manifest)).sign(signer, mime, io.BytesIO(data), file)
    return file.getvalue()


def forbidden(use: str = "notAllowed", entry: str = "cawg.ai_generative_training") -> Mapping[str, object]:
    return {entry: {"use": use}}


def xmp(value: str, form: str = "element") -> bytes:
    """A packet with ``plus:DataMining``, in one of the ways that XMP has to write a URI."""
    said = {
        "element": f"<plus:DataMining>{VOCABULARY}{value}</plus:DataMining>",
        "resource": f'<plus:DataMining rdf:resource="{VOCABULARY}{value}"/>',
        "attribute": "",
        "plain": f"<p:DataMining xmlns:p='http://ns.useplus.org/ldf/xmp/1.0/'>{value}</p:DataMining>",
    }[form]
    attribute = f' plus:DataMining="{VOCABULARY}{value}"' if form == "attribute" else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"{attribute}>{said}'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def with_xmp(data: bytes, kind: str, packet: bytes) -> bytes:
    """The picture with the packet where its format keeps XMP."""
    match kind:
        case "PNG":
            return with_chunk(data, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
        case "JPEG":
            body = _EXTENDED + packet
            return data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body + data[2:]
        case "WEBP":
            chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
            return data[:4] + struct.pack("<I", len(data) - 8 + len(chunk)) + data[8:] + chunk
        case "GIF":
            trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
            return data[:-1] + b"\x21\xff\x0bXMP DataXMP" + packet + trailer + b"\x3b"
        case "AVIF":
            file = io.BytesIO()
            Image.open(io.BytesIO(data)).save(file, "AVIF", xmp=packet)
            return file.getvalue()
        case _:
            return data.replace(b"</svg>", b"<metadata>" + packet.partition(b"?>")[2] + b"</metadata></svg>")


def with_chunk(data: bytes, name: bytes, body: bytes) -> bytes:
    """A PNG with one chunk more behind its header."""
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data[:33] + chunk + data[33:]
