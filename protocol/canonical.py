"""One byte string for one document: RFC 8785 canonical JSON, and its SHA-256."""

import hashlib
from typing import Any

import rfc8785
from pydantic import BaseModel, ConfigDict

from protocol.errors import BadInput


class Document(BaseModel):
    """A frozen model that is hashed or signed: unknown fields are refused, the canonical form is unique."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def canonical(self) -> bytes:
        """RFC 8785 bytes. Invariant: ``type(d).model_validate_json(d.canonical()) == d``."""
        return canonical(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hex digits."""
        return sha256(self.canonical())


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises:
        BadInput: a number in it is none, or too large to be carried exactly.
    """
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise BadInput(f"A document cannot be hashed: {error}.") from error


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()
