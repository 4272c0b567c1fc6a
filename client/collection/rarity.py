"""How rare a token is among those whose traits are known: OpenRarity's score. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log2
from typing import TypeVar

from client.collection.metadata import Trait

Key = TypeVar("Key")
_ABSENT = ""
"""A token without a trait has the value "none of it", which may be the rarest of all."""


def rarity(collection: Mapping[Key, Sequence[Trait]]) -> dict[Key, float]:
    """I(x) / H for every token x, where I(x) = Σ −log₂ p(value) over all trait types of the collection.

    p is a value's share of the tokens given, H = E[I] = −Σ p log₂ p, so one is the mean; where all are alike, all are
    one. OpenRarity, "Rarity methodology": information content, normalised by the collection's entropy. The published
    score is over the whole collection; over some of its tokens it says how rare one is among those.
    """
    values = {key: dict(reversed(list(traits))) for key, traits in collection.items()}
    names = sorted({name for held in values.values() for name in held})
    counts = {name: Counter(held.get(name, _ABSENT) for held in values.values()) for name in names}
    information = {
        key: sum(log2(len(values) / counts[name][held.get(name, _ABSENT)]) for name in names)
        for key, held in values.items()
    }
    entropy = sum(information.values()) / len(information) if information else 0.0
    return {key: value / entropy if entropy else 1.0 for key, value in information.items()}
