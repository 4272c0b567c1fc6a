"""What a token says of itself: its metadata document and its image, from ``data:`` and ``ipfs://`` only."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from client.collection.text import one_line
from protocol.canonical import sha256
from protocol.errors import BadInput

MAX_METADATA_BYTES = 2 << 20
"""Room for an image inside the document, as on-chain collections have it."""
MAX_IMAGE_BYTES = 16 << 20
MAX_TRAITS = 100
MAX_SPOKEN = 200
"""Characters of a name, a trait type or a value."""
MENDED_THERE = "Only the collection can mend that; the token is left out until then."
SAYS_NOTHING = ("none", "null", "n/a")
"""Values that only say that a trait is not there."""

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
    sha256: str = field(default="", compare=False)
    """Of the document's bytes."""


def read_metadata(uri: str, fetch_file: FetchFile) -> Metadata:
    """Resolve a ``tokenURI``.

    Raises:
        BadInput: no such scheme here, too long, no JSON object, or no image.
        Unreachable: no gateway has it.
    """
    if not uri:
        raise BadInput("The contract names no metadata for it.", MENDED_THERE)
    data = read_uri(uri, fetch_file, MAX_METADATA_BYTES, "The metadata")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput("The metadata is no JSON.", MENDED_THERE) from error
    if not isinstance(document, dict):
        raise BadInput("The metadata is no JSON object.", MENDED_THERE)
    traits = tuple(_traits(document))
    return Metadata(
        _spoken(document.get("name")), traits, _image(document), _background(document, traits), sha256(data)
    )


def read_image(uri: str, fetch_file: FetchFile) -> bytes:
    """The original bytes of an image, not opened; errors as in ``read_metadata``."""
    return read_uri(uri, fetch_file, MAX_IMAGE_BYTES, "The image")


def read_uri(uri: str, fetch_file: FetchFile, max_bytes: int, what: str) -> bytes:
    """The bytes behind a ``data:`` or ``ipfs://`` URI; every other scheme is refused. ``what`` begins the reason."""
    # JSON can hold halves of characters, which no encoding has.
    scheme, _, rest = uri.encode(errors="replace").decode().strip().partition(":")
    match scheme.lower():
        case "data":
            data = _data(rest, what)
        case "ipfs":
            # ipfs://ipfs/<cid> is a mistake that many collections share.
            path = unquote(rest.removeprefix("//").removeprefix("ipfs/"))
            data = fetch_file(path.rstrip("/"), max_bytes)
        case "http" | "https":
            raise BadInput(
                f"{what} is kept on a web server, and web addresses that a token names are not opened.", MENDED_THERE
            )
        case _:
            raise BadInput(
                f"{what} is kept under {scheme[:20]!r}, which is not opened; only data: and ipfs:// are.", MENDED_THERE
            )
    if len(data) > max_bytes:
        raise BadInput(
            f"{what} is {len(data)} bytes; at most {max_bytes} are taken.", "The token is left out; train on others."
        )
    return data


def origin(uri: str) -> str:
    """Where it is, for the record: the URI itself, of a ``data:`` URI only what is before the data."""
    shown = uri.strip()
    if shown[:5].lower() == "data:":
        shown = shown[:200].partition(",")[0]
    return one_line(shown, 500)


def _data(rest: str, what: str) -> bytes:
    """RFC 2397, taken as browsers take it: an SVG's bare ``#`` and ``<`` in an unencoded URI stay as they are."""
    header, comma, body = rest.partition(",")
    if not comma:
        raise BadInput(f"{what} is a data: URI without data.", MENDED_THERE)
    data = unquote_to_bytes(body)
    if not header.lower().endswith(";base64"):
        return data
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error as error:
        raise BadInput(f"{what} is a data: URI that is no base64.", MENDED_THERE) from error


def _image(document: dict[str, Any]) -> str:
    """The image's URI. OpenSea's ``image_data`` holds an SVG itself, which becomes a URI here."""
    for name in ("image", "image_url"):
        if isinstance(document.get(name), str) and document[name].strip():
            return str(document[name])
    inline = document.get("image_data")
    if isinstance(inline, str) and inline.strip():
        return (
            inline if inline.strip()[:5].lower() == "data:" else f"data:image/svg+xml,{quote(inline, errors='replace')}"
        )
    if document.get("animation_url"):
        raise BadInput("The metadata names an animation and no still image.", MENDED_THERE)
    raise BadInput("The metadata names no image.", MENDED_THERE)


def _traits(document: dict[str, Any]) -> list[Trait]:
    """Traits with a type and a plain value; others name nothing that a caption could say, and dates are no words."""
    listed = document.get("attributes") or document.get("traits")
    if isinstance(listed, dict):
        listed = [{"trait_type": name, "value": value} for name, value in listed.items()]
    if not isinstance(listed, list):
        return []
    worded = (one for one in listed if isinstance(one, dict) and one.get("display_type") != "date")
    pairs = [(_spoken(one.get("trait_type")), _spoken(one.get("value"))) for one in worded]
    return [(name, value) for name, value in pairs if name and value and value not in SAYS_NOTHING][:MAX_TRAITS]


def _background(document: dict[str, Any], traits: tuple[Trait, ...]) -> str:
    colour = _spoken(document.get("background_color"))
    if colour:
        return f"#{colour.removeprefix('#')}"
    return dict(traits).get("background", "")


def _spoken(value: Any) -> str:
    """One line of lower-case text, for names, trait types and values; nothing for whatever is no plain value."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return one_line(str(value).lower(), MAX_SPOKEN)
