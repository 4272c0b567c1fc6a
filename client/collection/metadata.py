"""What a token says of itself: its metadata document and its image, from ``data:`` and ``ipfs://`` only."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from protocol.errors import BadInput

MAX_METADATA_BYTES = 2 << 20
"""Room for an image inside the document, as on-chain collections have it."""
MAX_IMAGE_BYTES = 16 << 20
MAX_TRAITS = 100

FetchFile = Callable[[str, int], bytes]
"""(``"cid/a/b"``, most bytes) → the verified bytes of that file."""

Trait = tuple[str, str]
"""(trait type, value), both in lower case."""


@dataclass(frozen=True)
class Metadata:
    """The part of ERC-721 metadata that training needs, in the document's own order."""

    name: str
    traits: tuple[Trait, ...]
    image: str
    background: str
    """A colour as CSS writes it, or nothing: OpenSea's ``background_color``, else a trait called background."""


def read_metadata(uri: str, fetch_file: FetchFile) -> Metadata:
    """Resolve a ``tokenURI``.

    Raises:
        BadInput: no such scheme here, too long, no JSON object, or no image.
        Unreachable: no gateway has it.
    """
    if not uri:
        raise BadInput("The contract names no metadata for it.")
    try:
        document = json.loads(read_uri(uri, fetch_file, MAX_METADATA_BYTES, "The metadata"))
    except (ValueError, RecursionError) as error:
        raise BadInput("The metadata is no JSON.") from error
    if not isinstance(document, dict):
        raise BadInput("The metadata is no JSON object.")
    image = document.get("image")
    if not isinstance(image, str) or not image:
        raise BadInput("The metadata names no image.")
    traits = tuple(_traits(document.get("attributes")))
    return Metadata(_spoken(document.get("name")), traits, image, _background(document, traits))


def read_image(uri: str, fetch_file: FetchFile) -> bytes:
    """The original bytes of an image, not opened; errors as in ``read_metadata``."""
    return read_uri(uri, fetch_file, MAX_IMAGE_BYTES, "The image")


def read_uri(uri: str, fetch_file: FetchFile, max_bytes: int, what: str) -> bytes:
    """The bytes behind a ``data:`` or ``ipfs://`` URI; every other scheme is refused. ``what`` begins the reason."""
    scheme, _, rest = uri.strip().partition(":")
    match scheme.lower():
        case "data":
            data = _data(rest, what)
        case "ipfs":
            # ipfs://ipfs/<cid> is a mistake that many collections share.
            path = unquote(rest.removeprefix("//").removeprefix("ipfs/"))
            data = fetch_file(path.rstrip("/"), max_bytes)
        case "http" | "https":
            raise BadInput(f"{what} is kept on a web server, and web addresses that a token names are not opened.")
        case _:
            raise BadInput(f"{what} is kept under {scheme[:20]!r}, which is not opened; only data: and ipfs:// are.")
    if len(data) > max_bytes:
        raise BadInput(f"{what} is {len(data)} bytes; at most {max_bytes} are taken.")
    return data


def _data(rest: str, what: str) -> bytes:
    """RFC 2397, taken as browsers take it: an SVG's bare ``#`` and ``<`` in an unencoded URI stay as they are."""
    header, comma, body = rest.partition(",")
    if not comma:
        raise BadInput(f"{what} is a data: URI without data.")
    data = unquote_to_bytes(body)
    if not header.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise BadInput(f"{what} is a data: URI that is no base64.") from error


def _traits(attributes: Any) -> list[Trait]:
    """Traits with a type and a plain value; others name nothing that a caption could say."""
    if not isinstance(attributes, list):
        return []
    pairs = [(_spoken(a.get("trait_type")), _spoken(a.get("value"))) for a in attributes if isinstance(a, dict)]
    return [(name, value) for name, value in pairs if name and value][:MAX_TRAITS]


def _background(document: dict[str, Any], traits: tuple[Trait, ...]) -> str:
    colour = _spoken(document.get("background_color"))
    if colour:
        return f"#{colour.removeprefix('#')}"
    return dict(traits).get("background", "")


def _spoken(value: Any) -> str:
    """One line of lower-case text, for names, trait types and values; nothing for whatever is no plain value."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = "".join(c if c.isprintable() else " " for c in str(value).lower())
    return " ".join(text.split())[:200]
