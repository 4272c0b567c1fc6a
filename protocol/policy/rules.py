"""The verdict on one token.

Rules are asked from the most to the least specific: the token, its collection, the licence its contract declares on
chain, the licence its metadata name, and then nothing is left but no. The first level that speaks decides, and within
a level a no goes before every yes. What a level allows, the rules about people can still deny.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts_abi.model import LicenceSignal, Token
from protocol.canonical import Document
from protocol.policy.document import CollectionRule, CustomLicence, Policy, TokenRule
from protocol.policy.duties import Duty, union
from protocol.policy.licences import Licence, OnTransfer, licence_of
from protocol.policy.membership import Standing
from protocol.policy.publishing import misfit

DAY_SECONDS = 86_400
Rule = Literal[
    "token", "collection", "on-chain licence", "metadata", "membership", "holding time", "cap", "default deny"
]
AND = " AND "
"""Between licences that hold at once."""


class Verdict(Document):
    """What the policy says of one token."""

    token: Token
    collection: str
    allow: bool
    rule: Rule
    licence: str | None
    """By name; several that hold at once are joined by AND. None where the DAO's own word stands alone."""
    reason: str
    evidence: str = ""
    duties: tuple[Duty, ...] = ()
    on_transfer: OnTransfer = OnTransfer.EXCLUDE
    warrant: bool = False
    """Whether the holder's warrant is part of why it is allowed."""


class Held(BaseModel):
    """How long the present owner has had a token, at the snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: Annotated[int, Field(ge=0)]
    seconds: Annotated[int, Field(ge=0)]


class Facts(BaseModel):
    """What is known of one token and its owner at the snapshot. What is not known never helps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    signals: tuple[LicenceSignal, ...] = ()
    """What its contract declares on chain."""
    metadata_licence: str | None = None
    """The URL or name of a licence in its metadata."""
    held: Held | None = None
    standing: Standing | None = None
    """What the policy's membership says of the owner."""


@dataclass(frozen=True)
class _Word:
    """What one rule says."""

    allow: bool
    reason: str
    licence: str | None = None
    evidence: str = ""
    duties: tuple[Duty, ...] = ()
    on_transfer: OnTransfer = OnTransfer.EXCLUDE
    warrant: bool = False


def judge(policy: Policy, token: Token, facts: Facts | LicenceSignal | None) -> Verdict:
    """The verdict on ``token``. A lone signal stands for facts that hold nothing else, None for no facts."""
    known = _known(facts)
    rules, name, levels = _levels(policy, token, known)
    for rule, words in levels:
        if said := tuple(words()):
            verdict = _verdict(token, name, rule, _together(said, rules))
            return _of_owner(policy, verdict, known) if verdict.allow else verdict
    nothing = "Neither the policy nor the contract names a licence for this collection."
    return _verdict(
        token, name, "default deny", _Word(False, nothing if rules else "The policy does not name this collection.")
    )


class Level(BaseModel):
    """One level of rules: everything that it says of a token, and whether it is the one that counts."""

    model_config = ConfigDict(frozen=True)

    rule: Rule
    says: tuple[tuple[bool, str], ...]
    """(allowed, reason) of each rule that speaks."""
    decides: bool


def explained(policy: Policy, token: Token, facts: Facts | LicenceSignal | None) -> tuple[Level, ...]:
    """Every level in its order, with what it says of ``token``. Of those that decide the last has the last word."""
    verdict, (_, _, levels) = judge(policy, token, facts), _levels(policy, token, _known(facts))
    found: list[Level] = []
    for rule, words in levels:
        said = tuple((word.allow, word.reason) for word in words())
        found.append(Level(rule=rule, says=said, decides=bool(said) and not any(one.decides for one in found)))
    if not any(one.rule == verdict.rule and one.decides for one in found):
        found.append(Level(rule=verdict.rule, says=((verdict.allow, verdict.reason),), decides=True))
    return tuple(found)


def _known(facts: Facts | LicenceSignal | None) -> Facts:
    return facts if isinstance(facts, Facts) else Facts(signals=(facts,) if facts else ())


_Levels = Sequence[tuple[Rule, Callable[[], Iterable[_Word]]]]


def _levels(policy: Policy, token: Token, known: Facts) -> tuple[Sequence[CollectionRule], str, _Levels]:
    """The collection's rules and name, and what each level says when it is asked, from the most specific on."""
    rules = [rule for rule in policy.collections if rule.contract == token.contract]
    extra = union(*(rule.duties for rule in rules))
    levels: _Levels = (
        (
            "token",
            lambda: (_by_token(policy, rule, extra) for rule in policy.tokens if rule.token.asset == token.asset),
        ),
        (
            "collection",
            lambda: (_by_collection(policy, rule, extra) for rule in rules if rule.licence or not rule.allow),
        ),
        ("on-chain licence", lambda: (_by_signal(policy, signal, extra) for signal in known.signals if rules)),
        ("metadata", lambda: _by_metadata(policy, rules, known.metadata_licence, extra)),
    )
    return rules, rules[0].name if rules else token.contract, levels


def within_cap(policy: Policy, verdicts: Iterable[Verdict]) -> list[Verdict]:
    """One member's verdicts, sorted by token: of what is allowed only as many as the policy takes of one member."""
    found, taken = [], 0
    for verdict in sorted(verdicts, key=lambda one: one.token):
        taken += verdict.allow
        over = policy.maximum_tokens is not None and taken > policy.maximum_tokens
        reason = f"The policy takes at most {policy.maximum_tokens} tokens of one member."
        found.append(denied(verdict, "cap", reason) if verdict.allow and over else verdict)
    return found


def denied(verdict: Verdict, rule: Rule, reason: str) -> Verdict:
    """The verdict turned into a no."""
    return verdict.model_copy(update={"allow": False, "rule": rule, "reason": reason, "warrant": False})


def _verdict(token: Token, collection: str, rule: Rule, word: _Word) -> Verdict:
    return Verdict(
        token=token,
        collection=collection,
        allow=word.allow,
        rule=rule,
        licence=word.licence,
        reason=word.reason,
        evidence=word.evidence,
        duties=word.duties,
        on_transfer=word.on_transfer,
        warrant=word.warrant,
    )


def _together(words: Sequence[_Word], rules: Sequence[CollectionRule]) -> _Word:
    """One word for a level: the first no, or everything that the several yeses ask for at once."""
    own = [rule.on_transfer for rule in rules if rule.on_transfer]
    no = next((word for word in words if not word.allow), None)
    counted = (no,) if no else words
    return _Word(
        allow=no is None,
        reason=" ".join(dict.fromkeys(word.reason for word in counted)),
        licence=AND.join(dict.fromkeys(word.licence for word in counted if word.licence)) or None,
        evidence="; ".join(dict.fromkeys(word.evidence for word in counted if word.evidence)),
        duties=union(*(word.duties for word in counted)),
        on_transfer=max((*own, *(word.on_transfer for word in counted)), key=lambda one: one.strictness),
        warrant=any(word.warrant for word in counted),
    )


def _of_owner(policy: Policy, verdict: Verdict, facts: Facts) -> Verdict:
    """What the rules about people make of a yes."""
    if policy.membership is not None:
        if facts.standing is None:
            return denied(verdict, "membership", "Whether its owner is a member is not known.")
        if not facts.standing.member:
            return denied(verdict, "membership", f"Its owner is no member: {facts.standing.reason}")
    days, blocks = policy.minimum_holding_days, policy.minimum_holding_blocks
    if not days and not blocks:
        return verdict
    if facts.held is None:
        return denied(verdict, "holding time", "How long its owner has had it is not known.")
    if facts.held.seconds < days * DAY_SECONDS:
        had = f"{facts.held.seconds // DAY_SECONDS} days, and the policy asks for {days}"
        return denied(verdict, "holding time", f"Its owner has had it for {had}.")
    if facts.held.blocks < blocks:
        had = f"{facts.held.blocks} blocks, and the policy asks for {blocks}"
        return denied(verdict, "holding time", f"Its owner has had it for {had}.")
    return verdict


def _by_token(policy: Policy, rule: TokenRule, extra: Sequence[Duty]) -> _Word:
    if rule.allow and rule.licence:
        return _by_licence(policy, rule.licence, rule.evidence, extra)
    return _Word(rule.allow, rule.reason, evidence=rule.evidence, duties=tuple(extra) if rule.allow else ())


def _by_collection(policy: Policy, rule: CollectionRule, extra: Sequence[Duty]) -> _Word:
    if not rule.allow:
        return _Word(False, rule.reason, rule.licence, rule.evidence)
    return _by_licence(policy, rule.licence or "", rule.evidence, extra)


def _by_signal(policy: Policy, signal: LicenceSignal, extra: Sequence[Duty]) -> _Word:
    if signal.standard == "ERC-5218":
        evidence = f"getLicenseURI() = {signal.uri} (ERC-5218)"
        if not signal.active:
            reason = "The contract's licence for this token is revoked, or it names none."
            return _Word(False, reason, licence_of(signal) or None, evidence)
        return _by_licence(policy, signal.uri, evidence, extra)
    evidence = f"getLicenseName() = {signal.name}, getLicenseURI() = {signal.uri}"
    return _by_licence(policy, licence_of(signal), evidence, extra)


def _by_metadata(
    policy: Policy, rules: Sequence[CollectionRule], licence: str | None, extra: Sequence[Duty]
) -> Iterable[_Word]:
    if licence and any(rule.metadata for rule in rules):
        yield _by_licence(policy, licence, f"metadata: license = {licence[:200]}", extra)


def _by_licence(policy: Policy, named: str, evidence: str, extra: Sequence[Duty]) -> _Word:
    licence = policy.licence(named)
    if licence is None:
        name = named[:200]
        return _Word(False, f"The licence {name} is not one this policy knows.", name, evidence)
    if isinstance(licence, CustomLicence):
        evidence = f"{evidence}; {licence.source} (SHA-256 {licence.evidence_sha256})".removeprefix("; ")
    asked = union(licence.duties, extra)
    allow, reason = _admits(policy, licence, asked)
    return _Word(
        allow=allow,
        reason=reason,
        licence=licence.name,
        evidence=evidence,
        duties=asked,
        on_transfer=licence.on_transfer,
        warrant=allow and not licence.mentions_training,
    )


def _admits(policy: Policy, licence: Licence, asked: Sequence[Duty]) -> tuple[bool, str]:
    name = licence.name
    if not licence.derivatives:
        return False, f"{name} does not allow derivatives, so nothing may be trained on it."
    if refused := next((duty for duty in asked if duty.kind in policy.refused_duties), None):
        return False, f"{name} asks for a duty that this policy does not take on: {refused}."
    published = policy.licence(policy.release_licence) if policy.release_licence else None
    if published and (why := misfit(name, asked, licence.on_transfer, published)):
        return False, f"It cannot go into a release under {published.name}: {why}"
    if licence.mentions_training:
        return True, f"{name} allows training."
    if not policy.accept_holder_warrant:
        return False, f"{name} is silent on training, and this policy accepts no holder's warrant."
    return True, f"{name} allows derivatives and is silent on training; admitted on the holder's warrant."
