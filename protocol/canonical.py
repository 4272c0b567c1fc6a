"""One byte string for one document: RFC 8785 canonical JSON, and its SHA-256."""

import hashlib
from typing import Any, ClassVar

import rfc8785
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

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


class Growing(Document):
    """A document that gained fields since it was first hashed.

    A field in ``LATER`` is not written while it has its default: documents from before it existed keep their hash.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, written = type(self).model_fields, handler(self)
        unused = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in written.items() if name not in unused}


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises:
        BadInput: a number in it is none, or too large to be carried exactly; a text in it is not Unicode.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise BadInput(f"A document cannot be hashed: {error}.") from error


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()
