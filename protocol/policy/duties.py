"""What a licence asks of whoever uses the result: a kind, and where it needs one a parameter."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class DutyKind(StrEnum):
    """The four kinds of duties that a policy can reason about."""

    ATTRIBUTION = "attribution"
    """Name the author; the parameter says whom, empty leaves that to the licence."""
    NON_COMMERCIAL = "non-commercial"
    SHARE_ALIKE = "share-alike"
    """Publish under this licence only: the parameter, a licence's name."""
    CONTENT = "content"
    """What the result may not be used for: the parameter, in words."""


_NAMED = (DutyKind.ATTRIBUTION, DutyKind.NON_COMMERCIAL, DutyKind.SHARE_ALIKE)


class Duty(BaseModel):
    """One duty, written as a person reads it: ``attribution``, ``attribution: Nouns DAO``, ``non-commercial``,
    ``share-alike: CC-BY-SA-4.0``; any other words are a duty about content, as ``no hate speech``.

    Invariant: ``Duty.model_validate(str(duty)) == duty``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DutyKind
    parameter: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        kind, colon, parameter = value.partition(":")
        if kind in _NAMED:
            return {"kind": kind, "parameter": parameter.strip()}
        if kind == DutyKind.CONTENT and colon:
            return {"kind": kind, "parameter": parameter.strip()}
        return {"kind": DutyKind.CONTENT, "parameter": value.strip()}

    @model_validator(mode="after")
    def _whole(self) -> Duty:
        if self.kind in (DutyKind.SHARE_ALIKE, DutyKind.CONTENT) and not self.parameter:
            raise ValueError(f"the duty {self.kind} does not say what")
        if self.kind is DutyKind.NON_COMMERCIAL and self.parameter:
            raise ValueError("the duty non-commercial has no parameter")
        head = self.parameter.partition(":")[0]
        if self.parameter != self.parameter.strip() or (
            self.kind is DutyKind.CONTENT and (head in _NAMED or head == DutyKind.CONTENT)
        ):
            raise ValueError(f"{self.parameter!r} cannot be told from another duty")
        return self

    @model_serializer
    def __str__(self) -> str:
        if self.kind is DutyKind.CONTENT:
            return self.parameter
        return f"{self.kind}: {self.parameter}" if self.parameter else str(self.kind)

    def __lt__(self, other: Duty) -> bool:
        return str(self) < str(other)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1, "description": "A duty, in the words of docs/policy.md."}


def duties(*words: str) -> tuple[Duty, ...]:
    """Duties from their texts."""
    return tuple(Duty.model_validate(word) for word in words)


def union(*several: Iterable[Duty]) -> tuple[Duty, ...]:
    """All of them, sorted, each once; attribution to somebody goes before attribution to nobody in particular."""
    found = {duty for some in several for duty in some}
    if any(duty.kind is DutyKind.ATTRIBUTION and duty.parameter for duty in found):
        found.discard(Duty(kind=DutyKind.ATTRIBUTION))
    return tuple(sorted(found))
