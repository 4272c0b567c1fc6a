"""Who may take part at all: what a wallet has to hold or be, as questions that one block of a chain can answer.

A proof of personhood plugs in as a view function: any contract that says of an address whether it is somebody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PlainSerializer, Tag, model_validator

from contracts_abi.model import Address
from protocol.canonical import Document

MAX_QUESTIONS = 64
"""Of one policy's membership; each is asked of the chain for every wallet that takes part."""
MAX_DEPTH = 4


def _whole(value: Any) -> Any:
    """Amounts have 256 bits, more than a JSON number keeps: they are written as decimal strings."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 78:
        return int(value)
    return value


Amount = Annotated[int, Field(ge=0, lt=2**256), PlainSerializer(str, return_type=str, when_used="json")]


class _Question(Document):
    """What all questions to a contract have."""

    contract: Address
    at_least: Amount = 1
    """In the contract's smallest unit: tokens, or wei of an ERC-20."""
    name: str = ""
    """What people call it."""

    @model_validator(mode="before")
    @classmethod
    def _amounts(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _whole(one) if key in ("at_least", "token_id") else one for key, one in value.items()}
        return value

    @property
    def label(self) -> str:
        """Its name, else its contract."""
        return self.name or self.contract


class HoldsErc721(_Question):
    """``balanceOf(address)`` of an ERC-721 contract."""

    kind: Literal["erc721"] = "erc721"


class HoldsErc1155(_Question):
    """``balanceOf(address,uint256)`` of an ERC-1155 contract."""

    kind: Literal["erc1155"] = "erc1155"
    token_id: Amount


class HoldsErc20(_Question):
    """``balanceOf(address)`` of an ERC-20 contract, in its smallest unit."""

    kind: Literal["erc20"] = "erc20"


class HoldsSoulbound(_Question):
    """``balanceOf(address)`` of a contract that announces ERC-5192: tokens that cannot be handed on."""

    kind: Literal["soulbound"] = "soulbound"


class Answers(_Question):
    """Any view function of one address: ``bool`` has to be true, ``uint256`` to reach ``at_least``."""

    kind: Literal["view"] = "view"
    function: Annotated[str, Field(pattern=r"^[A-Za-z_$][A-Za-z0-9_$]{0,63}\(address\)$")]
    returns: Literal["bool", "uint256"] = "bool"


class OnList(Document):
    """Named in the policy itself."""

    kind: Literal["list"] = "list"
    addresses: Annotated[tuple[Address, ...], Field(min_length=1)]
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or "the policy's list"


class AllOf(Document):
    """Every one of these."""

    all: Annotated[tuple[Requirement, ...], Field(min_length=1)]


class AnyOf(Document):
    """At least one of these."""

    any: Annotated[tuple[Requirement, ...], Field(min_length=1)]


Question = HoldsErc721 | HoldsErc1155 | HoldsErc20 | HoldsSoulbound | Answers
_KINDS = frozenset({"erc721", "erc1155", "erc20", "soulbound", "view", "list"})


def _kind(value: Any) -> str | None:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if not isinstance(value, dict):
        return None
    if "all" in value:
        return "all"
    if "any" in value:
        return "any"
    kind = value.get("kind")
    return kind if isinstance(kind, str) and kind in _KINDS else None


Requirement = Annotated[
    Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[HoldsErc721, Tag("erc721")]
    | Annotated[HoldsErc1155, Tag("erc1155")]
    | Annotated[HoldsErc20, Tag("erc20")]
    | Annotated[HoldsSoulbound, Tag("soulbound")]
    | Annotated[Answers, Tag("view")]
    | Annotated[OnList, Tag("list")],
    Discriminator(
        _kind,
        custom_error_type="membership",
        custom_error_message="a requirement has all, any, or a kind: erc721, erc1155, erc20, soulbound, view or list",
    ),
]
Membership = Requirement
AllOf.model_rebuild()
AnyOf.model_rebuild()

Holding = Mapping[Question, int | None]
"""What the chain answers to each question; None where the contract gives no answer, or is not what was asked for."""


class Standing(BaseModel):
    """Whether somebody is a member of the DAO, and why."""

    model_config = ConfigDict(frozen=True)

    member: bool
    reason: str


def questions_of(membership: Membership) -> tuple[Question, ...]:
    """Everything that the chain has to be asked, each once, in the document's order."""
    return tuple(dict.fromkeys(one for one in _leaves(membership) if not isinstance(one, OnList)))


def depth_of(membership: Membership) -> int:
    """1 for a single requirement."""
    return 1 + max(map(depth_of, _parts(membership)), default=0)


def standing_of(membership: Membership, wallets: Iterable[str], holding: Holding) -> Standing:
    """What ``membership`` says of whoever has ``wallets``, given the chain's answers about them."""
    if isinstance(membership, AllOf):
        parts = [standing_of(one, wallets, holding) for one in membership.all]
        missing = [one.reason for one in parts if not one.member]
        return Standing(member=not missing, reason=" ".join(missing or [one.reason for one in parts]))
    if isinstance(membership, AnyOf):
        parts = [standing_of(one, wallets, holding) for one in membership.any]
        met = next((one for one in parts if one.member), None)
        return met or Standing(
            member=False, reason="One of these is needed, and none is met: " + " ".join(one.reason for one in parts)
        )
    if isinstance(membership, OnList):
        named = bool(set(wallets) & set(membership.addresses))
        return Standing(member=named, reason=f"It is {'' if named else 'not '}on {membership.label}.")
    return _asked(membership, holding.get(membership))


def _asked(question: Question, answer: int | None) -> Standing:
    if answer is None:
        what = "is not soulbound (ERC-5192)" if isinstance(question, HoldsSoulbound) else "gives no answer"
        return Standing(member=False, reason=f"{question.label} {what}.")
    member = answer >= question.at_least
    if isinstance(question, Answers) and question.returns == "bool":
        word = "yes" if answer else "no"
        return Standing(member=member, reason=f"{question.label} answers {question.function} with {word}.")
    if isinstance(question, Answers):
        said = f"{question.label} answers {question.function} with {answer}"
    else:
        said = f"It holds {answer} of {question.label}"
    return Standing(member=member, reason=f"{said}, and the policy asks for {question.at_least} or more.")


def _parts(membership: Membership) -> tuple[Membership, ...]:
    if isinstance(membership, AllOf):
        return membership.all
    return membership.any if isinstance(membership, AnyOf) else ()


def _leaves(membership: Membership) -> Iterable[Question | OnList]:
    if isinstance(membership, AllOf | AnyOf):
        for part in _parts(membership):
            yield from _leaves(part)
    else:
        yield membership
