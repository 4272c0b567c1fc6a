"""The DAO's policy and the verdict it gives of one token. Default deny; every verdict carries its reason.

Rules are asked from the most to the least specific: the token, its collection, the licence its contract
declares on chain, and then nothing is left but no. The first that speaks decides.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from contracts_abi.model import Address, LicenceSignal, Token
from contracts_abi.ownership.terms import Ownership
from protocol.canonical import Document
from protocol.errors import NotAllowed
from protocol.modes import Mode


class OnTransfer(StrEnum):
    """What becomes of a contribution when one of its tokens changes hands."""

    KEEP = "keep"
    EXCLUDE = "exclude"


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


class Licence(Document):
    """What a licence means for training, in the few terms a policy needs."""

    name: str
    derivatives: bool
    """Whether the holder may make derivatives at all."""
    mentions_training: bool
    """Whether training is clearly permitted; if not, the holder has to warrant it and the policy to accept that."""
    on_transfer: OnTransfer
    duties: tuple[str, ...] = ()
    source: str
    """Where the licence's text is found."""


_CANT_BE_EVIL = "https://github.com/a16z/a16z-contracts"


def _cant_be_evil(name: str, *, derivatives: bool, duties: tuple[str, ...] = ()) -> Licence:
    return Licence(
        name=name,
        derivatives=derivatives,
        mentions_training=False,
        on_transfer=OnTransfer.EXCLUDE,
        duties=duties,
        source=_CANT_BE_EVIL,
    )


LICENCES: Mapping[str, Licence] = {
    licence.name: licence
    for licence in (
        Licence(
            name="CC0",
            derivatives=True,
            mentions_training=True,
            on_transfer=OnTransfer.KEEP,
            source="https://creativecommons.org/publicdomain/zero/1.0/",
        ),
        _cant_be_evil("CBE-EXCLUSIVE", derivatives=True),
        _cant_be_evil("CBE-COMMERCIAL", derivatives=True),
        _cant_be_evil("CBE-COMMERCIAL_NO_HATE", derivatives=True, duties=("no hate speech",)),
        _cant_be_evil("CBE-PERSONAL", derivatives=False),
        _cant_be_evil("CBE-PERSONAL_NO_HATE", derivatives=False, duties=("no hate speech",)),
    )
}
"""Licence profiles by name. Can't Be Evil PUBLIC is CC0."""


class TokenRule(Document):
    """The DAO's word on one token."""

    token: Token
    allow: bool
    reason: str


class CollectionRule(Document):
    """The DAO's word on a collection: the licence it is under, with the evidence for that."""

    contract: Address
    name: str
    licence: str | None = None
    """A name in ``LICENCES``; None leaves the question to what the contract declares on chain."""
    evidence: str = ""
    ownership: Ownership = Ownership()
    """What counts as holding one of its tokens."""


class AdminRole(Document):
    """Who may start rounds: holders of an AccessControl role, asked of the chain at the time of the act."""

    contract: Address
    role: Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")] = "0x" + "00" * 32


class Policy(Document):
    """One document with a hash: what the DAO trains on, under which licences, and who decides."""

    version: Literal[1] = 1
    dao: str
    purpose: str
    chain_id: int
    admin: AdminRole
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
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)] = (Mode.OPEN,)
    """The modes that a round may have. A grant is for this policy, so a member's node refuses any other."""
    epsilon_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0
    """``dp``: what all releases together may tell of one member, at the plan's δ."""

    def require_mode(self, mode: Mode) -> None:
        """Raises NotAllowed for a mode that members have not agreed to."""
        if mode not in self.modes:
            raise NotAllowed(
                f"The policy has no {mode} rounds, only {' and '.join(self.modes)}.",
                "Plan a round in a mode that the policy names.",
            )

    @property
    def ownership(self) -> Mapping[Address, Ownership]:
        """Collection → what counts as holding one of its tokens."""
        return {rule.contract: rule.ownership for rule in self.collections}

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


class Verdict(Document):
    """What the policy says of one token."""

    token: Token
    collection: str
    allow: bool
    rule: Literal["token", "collection", "on-chain licence", "default deny"]
    licence: str | None
    reason: str
    evidence: str = ""
    duties: tuple[str, ...] = ()
    on_transfer: OnTransfer = OnTransfer.EXCLUDE
    warrant: bool = False
    """Whether the holder's warrant is part of why it is allowed."""


def judge(policy: Policy, token: Token, signal: LicenceSignal | None) -> Verdict:
    """The verdict on ``token``, given the licence its contract declares (None: it declares none)."""
    rule = next((r for r in policy.collections if r.contract == token.contract), None)
    name = rule.name if rule else token.contract
    own = next((r for r in policy.tokens if r.token.asset == token.asset), None)
    if own:
        return Verdict(token=token, collection=name, allow=own.allow, rule="token", licence=None, reason=own.reason)
    if rule is None:
        return Verdict(
            token=token,
            collection=name,
            allow=False,
            rule="default deny",
            licence=None,
            reason="The policy does not name this collection.",
        )
    if rule.licence:
        return _by_licence(policy, token, name, rule.licence, "collection", rule.evidence)
    if signal:
        evidence = f"getLicenseName() = {signal.name}, getLicenseURI() = {signal.uri}"
        return _by_licence(policy, token, name, licence_of(signal), "on-chain licence", evidence)
    return Verdict(
        token=token,
        collection=name,
        allow=False,
        rule="default deny",
        licence=None,
        reason="Neither the policy nor the contract names a licence for this collection.",
    )


def licence_of(signal: LicenceSignal) -> str:
    """The profile's name for a Can't Be Evil licence."""
    return "CC0" if signal.name == "PUBLIC" else f"CBE-{signal.name}"


def _by_licence(
    policy: Policy,
    token: Token,
    collection: str,
    licence_name: str,
    rule: Literal["collection", "on-chain licence"],
    evidence: str,
) -> Verdict:
    licence = LICENCES.get(licence_name)
    allow, reason = _admits(policy, licence, licence_name)
    return Verdict(
        token=token,
        collection=collection,
        allow=allow,
        rule=rule,
        licence=licence_name,
        reason=reason,
        evidence=evidence,
        duties=licence.duties if licence else (),
        on_transfer=licence.on_transfer if licence else OnTransfer.EXCLUDE,
        warrant=allow and licence is not None and not licence.mentions_training,
    )


def _admits(policy: Policy, licence: Licence | None, name: str) -> tuple[bool, str]:
    if licence is None:
        return False, f"The licence {name} is not one this policy knows."
    if not licence.derivatives:
        return False, f"{name} does not allow derivatives, so nothing may be trained on it."
    if licence.mentions_training:
        return True, f"{name} allows training."
    if not policy.accept_holder_warrant:
        return False, f"{name} is silent on training, and this policy accepts no holder's warrant."
    return True, f"{name} allows derivatives and is silent on training; admitted on the holder's warrant."
