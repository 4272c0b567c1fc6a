"""The member's own eye: which tokens, with what weight, in which words. Pure; ``choice_file`` keeps it.

It only ever narrows what the grant and the policy admit. Weights count within this member's own training; between
members the coordinator's weights hold, which nothing here can change.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import log2
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from client.collection.captions import PLAIN, CaptionStyle, Lower
from client.collection.metadata import Trait
from client.collection.rarity import rarity
from contracts_abi.model import Token
from protocol.canonical import Document

PLAIN_STARS = 3
"""Of a token that was given none."""
FARTHEST = 8.0
"""No token counts more than this, or less than one part of it, whatever the factors say."""
DAY_S = 86_400
ALL = "all"
_TOKENS = re.compile(r"(?:eip155:(\d+)/erc721:)?(0x[0-9a-fA-F]{40})(?:[:/](\d{1,78})(?:-(\d{1,78}))?)?")
_TRAIT = re.compile(r"([^=!]+)(!?=)(.+)")


class TokenPattern(NamedTuple):
    """``0xabc…``, ``0xabc…:12`` or ``0xabc…:1-20``; ``least`` and ``most`` are inclusive."""

    chain_id: int | None
    contract: str
    least: int
    most: int

    def matches(self, token: Token) -> bool:
        """Whether ``token`` is one of them."""
        if self.chain_id not in (None, token.chain_id) or self.contract != token.contract.lower():
            return False
        return self.least <= token.token_id <= self.most


class TraitFilter(NamedTuple):
    """``head=fence`` or ``head!=fence``; in the value ``*`` stands for anything."""

    name: str
    wanted: bool
    value: str

    def matches(self, traits: Iterable[Trait]) -> bool:
        """Whether one of the traits is it (of the value only; ``wanted`` is the caller's)."""
        return any(name == self.name and fnmatchcase(value, self.value) for name, value in traits)


def parse_tokens(text: str) -> TokenPattern:
    """Raises ValueError, as the validators here do."""
    match = _TOKENS.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text[:80]!r} names no tokens; write 0x<contract>, 0x<contract>:12 or 0x<contract>:1-20")
    chain, contract, first, last = match.groups()
    least = int(first) if first else 0
    most = int(last) if last else least if first else 2**256
    if most < least:
        raise ValueError(f"{text[:80]!r} ends before it begins; write the smaller number first")
    return TokenPattern(int(chain) if chain else None, contract.lower(), least, most)


def parse_filter(text: str) -> TraitFilter:
    """Raises ValueError."""
    match = _TRAIT.fullmatch(text.strip().lower())
    if not match:
        raise ValueError(f"{text[:80]!r} is no filter; write trait=value or trait!=value")
    name, sign, value = (part.strip() for part in match.groups())
    return TraitFilter(name, sign == "=", value)


def _checked(parse: object) -> AfterValidator:
    def check(text: str) -> str:
        parse(text)  # type: ignore[operator]
        return text

    return AfterValidator(check)


def _collection(name: str) -> str:
    if name != ALL and not re.fullmatch(r"0x[0-9a-fA-F]{40}", name):
        raise ValueError(f"{name[:80]!r} is no collection; write the contract's address, or {ALL}")
    return name.lower()


Tokens = Annotated[str, _checked(parse_tokens)]
Collection = Annotated[str, AfterValidator(_collection)]
Stars = Annotated[int, Field(ge=1, le=5)]
Where = Annotated[Lower, _checked(parse_filter)]
Basis = Literal["rarity", "holding"]


class Choice(Document):
    """What the member chose. The default takes every token once, in plain words."""

    include: tuple[Tokens, ...] = ()
    """Only these; none named means all."""
    exclude: tuple[Tokens, ...] = ()
    where: tuple[Where, ...] = ()
    """``head=fence``: of one trait's such filters one must hold. ``head!=fog``: every such filter must."""
    weigh_by: tuple[Basis, ...] = ()
    stars: Mapping[Tokens, Stars] = Field(default_factory=dict)
    """Tokens → 1 to 5, three being plain; of several that match the last counts."""
    captions: Mapping[Collection, CaptionStyle] = Field(default_factory=dict)
    """Contract → style; ``all`` is for those that have none of their own."""

    def judge(self, token: Token, traits: Sequence[Trait] | None) -> "Decision":
        """Whether the token is taken and why; with ``traits`` unknown (None) only by its name."""
        for text in self.exclude:
            if parse_tokens(text).matches(token):
                return Decision(False, f"you left out {_short(text)}")
        included = [text for text in self.include if parse_tokens(text).matches(token)]
        if self.include and not included:
            return Decision(False, "it is not among the tokens that you include")
        if traits is not None:
            for reason in self._against(traits):
                return Decision(False, reason)
        if included:
            return Decision(True, f"you include {_short(included[0])}")
        if traits and self.where:
            return Decision(True, "its traits are what you ask for")
        return Decision(True, "nothing speaks against it")

    def _against(self, traits: Sequence[Trait]) -> Iterable[str]:
        filters = [parse_filter(text) for text in self.where]
        for one in filters:
            if not one.wanted and one.matches(traits):
                yield f"you left out {one.name} {one.value}"
        for name in dict.fromkeys(one.name for one in filters if one.wanted):
            asked = [one for one in filters if one.wanted and one.name == name]
            if not any(one.matches(traits) for one in asked):
                held = dict(traits).get(name, "missing")
                yield f"its {name} is {held}, and you ask for {' or '.join(one.value for one in asked)}"

    def stars_of(self, token: Token) -> int:
        """One to five."""
        given = [stars for text, stars in self.stars.items() if parse_tokens(text).matches(token)]
        return given[-1] if given else PLAIN_STARS

    def style_of(self, contract: str) -> CaptionStyle:
        """The words for a collection."""
        return self.captions.get(contract.lower(), self.captions.get(ALL, PLAIN))

    def weights(
        self,
        taken: Sequence[Token],
        traits: Mapping[Token, Sequence[Trait]],
        held_s: Mapping[Token, float] | None = None,
    ) -> "dict[Token, Weight]":
        """Each taken token's weight, of mean one, and what it is made of.

        weight ∝ stars / 3 · rarity · log₂(2 + days held), each factor where it is asked for and known, the product
        kept within 1/8 and 8. ``traits`` are of all tokens that are known, taken or not, for rarity is among those;
        ``held_s`` are seconds.
        """
        known = _rarities(traits) if "rarity" in self.weigh_by else {}
        held = (held_s or {}) if "holding" in self.weigh_by else {}
        raw, why = {}, {}
        for token in taken:
            stars = self.stars_of(token)
            factors = {f"{stars} stars": stars / PLAIN_STARS} if stars != PLAIN_STARS else {}
            if token in known:
                factors[f"rarity {known[token]:.2f}"] = known[token]
            if token in held:
                days = max(0.0, held[token]) / DAY_S
                factors[f"held {days:.0f} days"] = log2(2 + days)
            raw[token] = _product(factors.values())
            why[token] = ", ".join(factors)
        mean = sum(raw[token] for token in sorted(raw)) / len(raw) if raw else 1.0
        return {token: Weight(round(raw[token] / mean, 6), why[token]) for token in taken}


class Decision(NamedTuple):
    """Whether a token is taken, and the end of the sentence "because …"."""

    taken: bool
    because: str


@dataclass(frozen=True)
class Weight:
    """A factor of mean one, and the words for what it is made of; none when nothing weighs."""

    value: float
    because: str


def _rarities(traits: Mapping[Token, Sequence[Trait]]) -> dict[Token, float]:
    """Among the known tokens of its own collection."""
    collections: dict[tuple[int, str], dict[Token, Sequence[Trait]]] = {}
    for token, held in traits.items():
        collections.setdefault((token.chain_id, token.contract), {})[token] = held
    return {token: score for one in collections.values() for token, score in rarity(one).items()}


def _product(factors: Iterable[float]) -> float:
    product = 1.0
    for factor in factors:
        product *= factor
    return min(FARTHEST, max(1 / FARTHEST, product))


def _short(pattern: str) -> str:
    """``0x1111…1111:1-20``"""
    return re.sub(r"(0x[0-9a-fA-F]{4})[0-9a-fA-F]{32}([0-9a-fA-F]{4})", r"\1…\2", pattern)
