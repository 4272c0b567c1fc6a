"""A draft of a policy: what is wrong with it, and what it would change for the members who are here.

Nothing comes into force here. The policy is a file that the coordinator reads when it starts, and its hash is in every
grant.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eth_utils.address import to_checksum_address
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from contracts_abi.facts import read_facts
from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.readers import owners
from contracts_abi.rpc import Rpc
from coordinator.database import GrantRow
from coordinator.eligibility.verdicts import take_snapshot, verdicts_for
from coordinator.web.desk.rehearsal import Asked
from coordinator.web.desk.words import Together, together
from coordinator.web.service import Service
from protocol.errors import BadInput
from protocol.policy import Level, Policy, Verdict, explained, parse_policy
from protocol.unixfs import build_file

MOST_MEMBERS = 40
"""Members whose tokens are asked about at one look."""
MOST_COLLECTIONS = 50
"""Collections of a draft that are asked about: beyond this the chain would be asked for too long."""
MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Problem:
    """Something wrong in a document: where, and what, in a sentence."""

    place: str
    words: str


@dataclass(frozen=True)
class Change:
    """What a draft changes for some of a member's tokens, for one reason."""

    member: Address
    allowed: bool
    """Whether they are allowed by the draft, and were not."""
    tokens: Together
    before: str
    """What the policy in force says of the first of them."""


@dataclass(frozen=True)
class Outcome:
    """A member's tokens under both."""

    member: Address
    before: int
    after: int
    """Admitted tokens."""
    takes_part: bool
    """Whether these are as many as the draft asks for."""


@dataclass(frozen=True)
class Explained:
    """One token: what every level of rules says, in force and in the draft."""

    token: Token
    owner: Address | None
    now: tuple[Level, ...]
    then: tuple[Level, ...]


@dataclass(frozen=True)
class Effect:
    """A draft beside the policy in force, at a finalized block."""

    snapshot: Snapshot
    outcomes: tuple[Outcome, ...]
    changes: tuple[Change, ...]
    unasked: int
    """Members beyond ``MOST_MEMBERS``, who were not asked about."""


@dataclass(frozen=True)
class Draft:
    """A document that is a policy."""

    policy: Policy
    digest: str
    cid: str
    same: bool
    """Whether it is the one in force."""
    to_sign: int
    """Members whose grants would have to be signed again."""


def read(text: str) -> tuple[Policy | None, tuple[Problem, ...]]:
    """The policy, or everything that is wrong with the text, each in a sentence at its place. Pure."""
    try:
        return parse_policy(text.encode(), "The draft"), ()
    except BadInput as error:
        said = Problem("", f"{error.message} {error.hint}".strip())
        cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return None, (said,)
    return None, tuple(
        Problem(_place(one["loc"]), _sentence(one["type"], one["msg"]))
        for one in cause.errors(include_input=False, include_url=False)[:MOST_PROBLEMS]
    )


def described(session: Session, here: Service, policy: Policy) -> Draft:
    """The draft's names, and how many grants its coming into force would end."""
    in_force = select(GrantRow.member).where(~GrantRow.replaced, GrantRow.expires > here.now()).distinct()
    cid, _ = build_file(policy.canonical())
    same = policy.digest() == here.policy.digest()
    return Draft(policy, policy.digest(), str(cid), same, 0 if same else len(session.scalars(in_force).all()))


def effect(here: Service, asked: Asked, draft: Policy) -> Effect:
    """What the draft would change for everybody who has granted.

    Raises:
        BadInput: it is about another chain, or about too many collections to ask for here.
        Unreachable: the chain does not answer.
    """
    _require_askable(here, draft)
    with here.database.reading() as session:
        members = session.scalars(
            select(GrantRow.member).where(~GrantRow.replaced).distinct().order_by(GrantRow.member)
        ).all()
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    outcomes, changes = [], []
    for member in members[:MOST_MEMBERS]:
        now, then = (
            {one.token: one for one in _verdicts(here, rpc, asked, policy, member, snapshot)}
            for policy in (here.policy, draft)
        )
        admitted = sum(one.allow for one in then.values())
        before = sum(one.allow for one in now.values())
        outcomes.append(Outcome(member, before, admitted, admitted >= draft.minimum_tokens))
        changes += _changes(member, now, then)
    return Effect(snapshot, tuple(outcomes), tuple(changes), max(0, len(members) - MOST_MEMBERS))


def explain(here: Service, draft: Policy, named: str) -> Explained:
    """The whole chain of rules for one token, which its owner's standing is part of.

    Raises:
        BadInput: ``named`` is no token, or the draft cannot be asked about here.
        Unreachable: the chain does not answer.
    """
    _require_askable(here, draft)
    token = token_of(named, here.policy.chain_id)
    rpc = here.rpc
    snapshot = take_snapshot(rpc, here.policy)
    owner = owners(rpc, [token], snapshot)[token] if token.standard == "erc721" else None

    def levels(policy: Policy) -> tuple[Level, ...]:
        facts = read_facts(rpc, policy, [token], (owner,) if owner else (), snapshot)[token]
        return explained(policy, token, facts)

    return Explained(token, owner, levels(here.policy), levels(draft))


def token_of(named: str, chain_id: int) -> Token:
    """A token as people write it: ``0x…/12``, or its CAIP-19 name. Raises BadInput."""
    if short := re.fullmatch(r"\s*(0x[0-9a-fA-F]{40})\s*[/# ]\s*(\d{1,78})\s*", named):
        named = f"eip155:{chain_id}/erc721:{to_checksum_address(short[1])}/{int(short[2])}"
    try:
        token = Token.parse(named.strip())
    except BadInput as error:
        raise BadInput("This names no token.", "Write the contract and the number, as 0x…/12.") from error
    if token.chain_id != chain_id:
        raise BadInput(f"This token is on chain {token.chain_id}, not {chain_id}.", "Name one of the policy's chain.")
    return token


def _require_askable(here: Service, draft: Policy) -> None:
    if draft.chain_id != here.policy.chain_id:
        raise BadInput(
            f"The draft is about chain {draft.chain_id}, and this coordinator asks chain {here.policy.chain_id}.",
            "Nothing could be asked about it here.",
        )
    if len(draft.ownership) > MOST_COLLECTIONS:
        raise BadInput(
            f"The draft names {len(draft.ownership)} collections, and {MOST_COLLECTIONS} at most are asked about here.",
            "Ask the shell: coterie-coordinator policy check.",
        )


def _verdicts(
    here: Service, rpc: Rpc, asked: Asked, policy: Policy, member: Address, snapshot: Snapshot
) -> Sequence[Verdict]:
    def ask() -> Sequence[Verdict]:
        return verdicts_for(rpc, policy, member, snapshot, here.sources)

    return asked.of(snapshot.hash, f"{policy.digest()} {member}", ask)


def _changes(member: Address, now: Mapping[Token, Verdict], then: Mapping[Token, Verdict]) -> list[Change]:
    """What was allowed and is denied, and the other way round."""
    found = []
    for allowed in (True, False):
        pairs = [(_of(now, token), _of(then, token)) for token in sorted({*now, *then})]
        moved = [after for before, after in pairs if after.allow is allowed and before.allow is not allowed]
        for one in together(moved):
            first = next(v for v in moved if v.collection == one.collection and v.reason == one.reason)
            found.append(Change(member, allowed, one, _of(now, first.token).reason))
    return found


def _of(verdicts: Mapping[Token, Verdict], token: Token) -> Verdict:
    """The verdict; a token of a collection that a policy does not name is denied without being asked for."""
    return verdicts.get(token) or Verdict(
        token=token,
        collection=token.contract,
        allow=False,
        rule="default deny",
        licence=None,
        reason="The policy does not name this collection.",
    )


def _place(loc: Sequence[str | int]) -> str:
    """``collections``, 2nd entry, ``licence``: as people count."""
    words = [f"entry {part + 1}" if isinstance(part, int) else part for part in loc]
    return ", ".join(words) or "the document"


def _sentence(kind: str, said: str) -> str:
    if kind == "extra_forbidden":
        return "This means nothing in a policy."
    if kind == "missing":
        return "This is missing."
    return said.removeprefix("Value error, ").replace("Input should be", "This has to be").rstrip(".") + "."
