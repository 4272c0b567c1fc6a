"""``data:`` URIs. Pure."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from protocol.errors import BadInput

MENDED_THERE = "Only the collection can mend that; the token is left out until then."


def read_data(rest: str, what: str) -> bytes:
    """What follows ``data:``, by RFC 2397, taken as browsers take it: an SVG's bare ``#`` and ``<`` stay as they are.

    Raises:
        BadInput: no comma, or base64 that is none. ``what`` begins the reason.
    """
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
