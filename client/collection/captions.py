"""Traits → caption, in the same words that the base was trained on."""

from collections.abc import Sequence

from bases.nouns_art import TRAITS, trait_phrase
from client.collection.metadata import Metadata, Trait
from protocol.errors import BadInput

MAX_CAPTION = 2000


def caption(metadata: Metadata) -> str:
    """``"fence head, square black glasses, …"``; a token without traits is called by its name.

    Raises:
        BadInput: neither traits nor a name.
    """
    text = ", ".join(trait_phrase(name, value) for name, value in in_order(metadata.traits)) or metadata.name
    if not text:
        raise BadInput("The metadata has neither traits nor a name to describe the picture with.")
    return text[:MAX_CAPTION]


def in_order(traits: Sequence[Trait]) -> list[Trait]:
    """The collection's own order, except for Nouns (all of ``TRAITS`` are there): theirs is the base's."""
    if not {name for name, _ in traits} >= set(TRAITS):
        return list(traits)
    return sorted(traits, key=lambda trait: TRAITS.index(trait[0]) if trait[0] in TRAITS else len(TRAITS))
