"""Traits → caption, in the collection's template; without one, in the same words that the base was trained on."""

import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from bases.nouns_art import TRAITS, trait_phrase
from client.collection.example import BETWEEN
from client.collection.metadata import Metadata, Trait
from client.collection.text import cut, one_line
from protocol.canonical import Document
from protocol.errors import BadInput

MAX_CAPTION = 2000
MAX_PHRASES = 1400
"""Characters; the rest is room for the template, the name and the trigger."""
MAX_TEMPLATE = 200
FIELDS = ("phrases", "name", "trigger")


def _template(text: str) -> str:
    try:
        fields = [part[1:] for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"its braces do not match ({error})") from error
    if any(name not in FIELDS or form or conversion for name, form, conversion in fields):
        raise ValueError("in braces it may say {phrases}, {name} and {trigger}, and nothing else")
    if [name for name, *_ in fields].count("phrases") > 1:
        raise ValueError("it may say {phrases} once")
    return _line(text)


def _line(text: str) -> str:
    return one_line(text, MAX_TEMPLATE)


Template = Annotated[str, Field(max_length=MAX_TEMPLATE), AfterValidator(_template)]
Words = Annotated[str, Field(max_length=MAX_TEMPLATE), AfterValidator(_line)]
Lower = Annotated[str, AfterValidator(lambda text: _line(text.lower()))]


class CaptionStyle(Document):
    """How a collection's tokens are described. The default is ``"fence head, axe accessory, …"``."""

    template: Template = "{phrases}"
    trigger: Words = ""
    """A word of the member's own for what is learned; stands first unless the template puts it elsewhere."""
    order: tuple[Lower, ...] = ()
    """Trait types that come first, in this order; the others follow in the collection's own."""
    skip: tuple[Lower, ...] = ()
    """Trait types, or single traits as ``type=value``, that are not spoken of."""


PLAIN = CaptionStyle()


@dataclass(frozen=True)
class Caption:
    """The whole text, and the two parts that training treats apart (``Example`` says how)."""

    text: str
    phrases: tuple[str, ...]
    trigger: str


def caption(metadata: Metadata, style: CaptionStyle = PLAIN) -> Caption:
    """``"fence head, square black glasses, …"``; a token without traits is called by its name.

    Raises:
        BadInput: nothing at all to say: neither traits nor a name, and no words in the template.
    """
    spoken = [trait for trait in in_order(metadata.traits, style.order) if not _skipped(trait, style.skip)]
    phrases = tuple(_within(MAX_PHRASES, (trait_phrase(name, value) for name, value in spoken)))
    named = "{name}" in style.template
    said = BETWEEN.join(phrases) or ("" if named else metadata.name)
    text = style.template.format(phrases=said, name=metadata.name, trigger=style.trigger)
    if not phrases:
        text = text.strip(" ,;:")
    if style.trigger and "{trigger}" not in style.template:
        text = BETWEEN.join(part for part in (style.trigger, text) if part)
    if not text.strip(" ,;:"):
        raise BadInput(
            "The metadata has neither traits nor a name to describe the picture with.",
            "A trigger word or a template in choice.toml gives it a caption.",
        )
    return Caption(cut(text, MAX_CAPTION), phrases, style.trigger)


def in_order(traits: Sequence[Trait], first: Sequence[str] = ()) -> list[Trait]:
    """``first``, then the collection's own order; Nouns (all of ``TRAITS`` are there) have the base's unless told."""
    order = tuple(first)
    if not order and {name for name, _ in traits} >= set(TRAITS):
        order = TRAITS
    return sorted(traits, key=lambda trait: order.index(trait[0]) if trait[0] in order else len(order))


def _skipped(trait: Trait, skip: Sequence[str]) -> bool:
    return trait[0] in skip or "=".join(trait) in skip


def _within(most: int, phrases: Iterable[str]) -> Iterator[str]:
    """Whole phrases, as long as there is room."""
    length = 0
    for phrase in phrases:
        length += len(phrase) + len(BETWEEN)
        if length > most:
            return
        yield phrase
