"""The policy document: what the DAO trains on, under which licences, who may take part, and who decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from contracts_abi.model import Address, Token
from contracts_abi.ownership.terms import Ownership
from protocol.canonical import Document, Growing
from protocol.errors import NotAllowed
from protocol.modes import Mode
from protocol.policy.duties import Duty, DutyKind
from protocol.policy.licences import LICENCES, Licence, OnTransfer, licence_named
from protocol.policy.membership import MAX_DEPTH, MAX_QUESTIONS, Membership, depth_of, questions_of

_SHARE_SCALE = 256
"""How finely a capped share is kept in whole numbers."""


class Weights(StrEnum):
    """What a contribution weighs, by the number of its admitted tokens."""

    EQUAL = "equal"
    PER_TOKEN = "per-token"  # noqa: S105 - no secret
    SQUARE_ROOT = "square-root"
    CAPPED = "capped"


class RobustRule(StrEnum):
    """How a merge meets contributions that lie far from all others."""

    NONE = "none"
    MULTI_KRUM = "multi-krum"
    GEOMETRIC_MEDIAN = "geometric-median"


class CustomLicence(Licence):
    """A licence as the DAO itself reads it, with the hash of the text or the letter that it goes by."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    evidence_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TokenRule(Growing):
    """The DAO's word on one token, stronger than everything else."""

    LATER = frozenset({"licence", "evidence"})

    token: Token
    allow: bool
    reason: str
    licence: str | None = None
    """The licence this one token is under; None lets the DAO's word stand alone."""
    evidence: str = ""


class CollectionRule(Growing):
    """The DAO's word on a collection: the licence it is under, with the evidence for that."""

    LATER = frozenset({"allow", "reason", "metadata", "duties", "on_transfer", "ownership"})

    contract: Address
    name: str
    licence: str | None = None
    """A name in ``LICENCES`` or of the policy's own; None leaves the question to what the contract declares."""
    evidence: str = ""
    allow: bool = True
    """False keeps the whole collection out, for the ``reason``."""
    reason: str = ""
    metadata: bool = False
    """Whether a licence that a token's metadata names counts, where the contract declares none."""
    duties: tuple[Duty, ...] = ()
    """Duties beyond those of the licence."""
    on_transfer: OnTransfer | None = None
    """Stricter than the licence, never laxer."""
    ownership: Ownership = Ownership()
    """What counts as holding one of its tokens."""

    @model_validator(mode="after")
    def _whole(self) -> CollectionRule:
        if not self.allow and not self.reason:
            raise ValueError(f"the rule that keeps {self.name} out gives no reason")
        return self


class AdminRole(Growing):
    """Admins are the holders of an AccessControl role, asked of the chain at the time of the act."""

    contract: Address
    role: Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")] = "0x" + "00" * 32


class AdminSafe(Document):
    """The admin is the DAO's own contract wallet: what it does, as many of its owners sign as it asks for."""

    safe: Address


class AdminWallets(Document):
    """Admins are these wallets."""

    wallets: Annotated[tuple[Address, ...], Field(min_length=1)]


def _kind_of_admin(value: Any) -> str:
    """Which of the three a document means, by its fields, so that an error names the field and not all three kinds."""
    names = value if isinstance(value, Mapping) else type(value).model_fields if isinstance(value, Document) else ()
    return next((kind for kind in ("safe", "wallets") if kind in names), "contract")


Admin = Annotated[
    Annotated[AdminRole, Tag("contract")] | Annotated[AdminSafe, Tag("safe")] | Annotated[AdminWallets, Tag("wallets")],
    Discriminator(_kind_of_admin),
]
"""Who may start rounds and end what was contributed."""


class Policy(Growing):
    """One document with a hash: what the DAO trains on, under which licences, and who decides."""

    LATER: ClassVar[frozenset[str]] = frozenset(
        {
            "licences",
            "membership",
            "minimum_holding_days",
            "minimum_holding_blocks",
            "maximum_tokens",
            "maximum_share_percent",
            "release_licence",
            "refused_duties",
            "publish_contributions",
            "modes",
            "epsilon_limit",
        }
    )

    version: Literal[1] = 1
    dao: str
    purpose: str
    chain_id: int
    admin: Admin
    collections: tuple[CollectionRule, ...]
    tokens: tuple[TokenRule, ...] = ()
    accept_holder_warrant: bool = False
    """Admit licences that allow derivatives but are silent on training, on the holder's own warrant."""
    minimum_tokens: Annotated[int, Field(ge=1)] = 1
    """A wallet with fewer admitted tokens takes no part."""
    weights: Weights = Weights.EQUAL
    weight_cap: Annotated[int, Field(ge=1, le=10_000)] = 20
    """The most tokens that count, where ``weights`` is capped."""
    robust: RobustRule = RobustRule.NONE
    """How a merge meets contributions that lie far from all others."""

    licences: tuple[CustomLicence, ...] = ()
    """Licences as the DAO reads them, beside the known ones."""
    membership: Membership | None = None
    """Who may take part; None is whoever owns an admitted token."""
    minimum_holding_days: Annotated[int, Field(ge=0, le=36_500)] = 0
    """A token counts only when its owner has had it for this long."""
    minimum_holding_blocks: Annotated[int, Field(ge=0)] = 0
    """The same in blocks; both have to be met."""
    maximum_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens of one member, the lowest ids first; None is no limit."""
    maximum_share_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    """The most that one member counts in a merge, of everybody's weights; None is no limit."""
    release_licence: str | None = None
    """What releases are published under; a token that cannot go into it is denied. None computes it, the strictest."""
    refused_duties: tuple[DutyKind, ...] = ()
    """Duties that the DAO does not want on its releases: a licence that carries one is denied."""
    publish_contributions: bool = False
    """Releases carry the adapters and statistics that went in, for anyone to merge again; never in private modes."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)] = (Mode.OPEN,)
    """The modes that a round may have. A grant is for this policy, so a member's node refuses any other."""
    epsilon_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0
    """``dp``: what all releases together may tell of one member, at the plan's δ."""

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        names = [licence.name for licence in self.licences]
        if taken := next((name for name in names if name in LICENCES or names.count(name) > 1), None):
            raise ValueError(f"the licence {taken} is there already; give the policy's own another name")
        if other := next((rule.token for rule in self.tokens if rule.token.chain_id != self.chain_id), None):
            raise ValueError(f"{other} is not on chain {self.chain_id}, which the policy is about")
        if self.maximum_tokens is not None and self.maximum_tokens < self.minimum_tokens:
            raise ValueError(f"nobody can have {self.minimum_tokens} tokens or more and {self.maximum_tokens} or fewer")
        told = {(rule.contract, rule.ownership) for rule in self.collections if rule.ownership != Ownership()}
        if twice := next((one for one, _ in told if sum(one == other for other, _ in told) > 1), None):
            raise ValueError(f"two rules say differently what counts as holding a token of {twice}")
        self._check_licences()
        if self.membership is not None and depth_of(self.membership) > MAX_DEPTH:
            raise ValueError(f"the membership is nested more than {MAX_DEPTH} deep")
        if self.membership is not None and len(questions_of(self.membership)) > MAX_QUESTIONS:
            raise ValueError(f"the membership asks the chain more than {MAX_QUESTIONS} questions of every wallet")
        return self

    def _check_licences(self) -> None:
        for rule in self.collections:
            licence = self.licence(rule.licence) if rule.licence else None
            if licence and rule.on_transfer and rule.on_transfer.strictness < licence.on_transfer.strictness:
                raise ValueError(
                    f"{rule.name} is under {licence.name}, which says {licence.on_transfer} on a sale: "
                    f"the policy may be stricter, and {rule.on_transfer} is laxer"
                )
        said = [rule.duties for rule in self.collections] + [licence.duties for licence in self.licences]
        for duty in (duty for duties in said for duty in duties):
            if duty.kind is DutyKind.SHARE_ALIKE and self.licence(duty.parameter) is None:
                raise ValueError(f"the duty {duty} names a licence that nobody knows")
        if self.release_licence is not None:
            published = self.licence(self.release_licence)
            if published is None or not published.derivatives:
                raise ValueError(f"a release cannot be published under {self.release_licence}")

    @property
    def ownership(self) -> Mapping[Address, Ownership]:
        """Collection → what counts as holding one of its tokens."""
        told = {rule.contract: rule.ownership for rule in self.collections if rule.ownership != Ownership()}
        return {rule.contract: told.get(rule.contract, rule.ownership) for rule in self.collections}

    @property
    def asks_of_members(self) -> bool:
        """Whether a verdict depends on who the owner is, or since when."""
        return self.membership is not None or bool(self.minimum_holding_days or self.minimum_holding_blocks)

    def licence(self, name: str) -> Licence | None:
        """The profile called ``name``, or whose source it is: the policy's own, then the known ones."""
        own = next((one for one in self.licences if name in (one.name, one.source)), None)
        return own or LICENCES.get(licence_named(name))

    def require_mode(self, mode: Mode) -> None:
        """Raises NotAllowed for a mode that members have not agreed to."""
        if mode not in self.modes:
            raise NotAllowed(
                f"The policy has no {mode} rounds, only {' and '.join(self.modes)}.",
                "Plan a round in a mode that the policy names.",
            )

    def weight_of(self, tokens: int) -> int:
        """The whole-number weight of a contribution with this many admitted tokens; shares are what counts."""
        match self.weights:
            case Weights.PER_TOKEN:
                return tokens
            case Weights.SQUARE_ROOT:
                return math.isqrt(tokens * 256)
            case Weights.CAPPED:
                return min(tokens, self.weight_cap)
        return 1

    def shares_capped(self, weights: Sequence[int]) -> list[int]:
        """``weights`` with nobody above ``maximum_share_percent``, whole numbers, in the same order.

        Where so few take part that somebody must be above it, all count the same.
        """
        percent, total = self.maximum_share_percent, sum(weights)
        if percent is None or all(100 * weight <= percent * total for weight in weights):
            return list(weights)
        if len(weights) * percent <= 100:
            return [1] * len(weights)
        falling = sorted((weight * _SHARE_SCALE for weight in weights), reverse=True)
        rest, cap = sum(falling), 0
        for above, weight in enumerate(falling, start=1):
            rest -= weight
            # above · cap + rest is everything, and cap is percent of it.
            cap = percent * rest // (100 - above * percent)
            if above == len(falling) or falling[above] <= cap:
                break
        return [min(weight * _SHARE_SCALE, cap) for weight in weights]
