"""What a token says of itself: its metadata document and where its image is."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from client.collection.text import one_line
from client.media.data import MENDED_THERE
from client.media.resolver import Found, Media
from protocol.canonical import sha256
from protocol.errors import BadInput

MAX_METADATA_BYTES = 2 << 20
"""Room for an image inside the document, as on-chain collections have it."""
MAX_IMAGE_BYTES = 16 << 20
MAX_TRAITS = 100
MAX_SPOKEN = 200
"""Characters of a name, a trait type or a value."""
SAYS_NOTHING = ("none", "null", "n/a")
"""Values that only say that a trait is not there."""

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


def read_metadata(uri: str, media: Media) -> Metadata:
    """Resolve a ``tokenURI``.

    Raises:
        BadInput: no such scheme here, too long, no JSON object, or no image.
        NotAllowed: its web server reserves it.
        Unreachable: nobody gave it.
    """
    if not uri:
        raise BadInput("The contract names no metadata for it.", MENDED_THERE)
    data = media.read(uri, MAX_METADATA_BYTES, "The metadata").data
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


def read_image(uri: str, media: Media) -> Found:
    """The original bytes of an image, not opened; errors as in ``read_metadata``."""
    return media.read(uri, MAX_IMAGE_BYTES, "The image")


def origin(uri: str) -> str:
    """Where it is, for the record: the URI itself, of a ``data:`` URI only what is before the data."""
    shown = uri.strip()
    if shown[:5].lower() == "data:":
        shown = shown[:200].partition(",")[0]
    return one_line(shown, 500)


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
