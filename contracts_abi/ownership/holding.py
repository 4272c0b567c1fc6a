"""Whether wallets hold tokens, at a snapshot: all claims of all collections together, in a few batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from contracts_abi.asking import address_of, ask, codes, on_this_chain
from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.ownership import accounts, erc721, rentals, staking
from contracts_abi.ownership.kinds import RESOLVERS, kinds_of
from contracts_abi.ownership.question import Claim, Question
from contracts_abi.ownership.rentals import Rental
from contracts_abi.ownership.terms import Kind, Ownership, Rentals
from contracts_abi.rpc import Rpc

MAX_DEPTH = 3
"""Accounts within accounts that are followed."""


@dataclass(frozen=True)
class Holding:
    """What the chain says of a claim."""

    holds: bool
    owner: Address | None
    """Whose it is in the end; None for nobody's, and for an ERC-1155 id of which the claimant has no unit."""
    through: tuple[str, ...] = ()
    """In what the owner has it, outermost first: ``staked in 0x…``, ``in the account 0x…``."""
    rental: Rental | None = None
    """Asked only where the terms are about rentals."""
    denied: str = ""
    """Why a token that is held admits nobody all the same: the terms refuse it as it is now."""


@dataclass
class _Found:
    named: dict[Claim, Address | None] = field(default_factory=dict)
    through: dict[Claim, tuple[str, ...]] = field(default_factory=dict)

    def move(self, claim: Claim, owner: Address | None, how: str) -> None:
        self.named[claim] = owner
        self.through[claim] = (*self.through.get(claim, ()), how)


def holdings(
    rpc: Rpc, claims: Iterable[Claim], terms: Mapping[Address, Ownership], snapshot: Snapshot
) -> dict[Claim, Holding]:
    """Each claim's answer at ``snapshot``; collections that ``terms`` lacks go by the defaults.

    Raises:
        BadInput: a token is of another chain.
        Conflict: the snapshot is no longer in the chain.
        Unreachable: the node does not answer.
    """
    asked = list(dict.fromkeys(claims))
    on_this_chain((claim.token for claim in asked), snapshot)
    kinds = kinds_of(rpc, (claim.token.contract for claim in asked), terms, snapshot)
    fitting = [claim for claim in asked if claim.token.standard == kinds[claim.token.contract].standard]
    found = _Found()
    _settle(
        rpc,
        [
            question
            for kind, resolver in RESOLVERS.items()
            for question in resolver([claim for claim in fitting if kinds[claim.token.contract] is kind])
        ],
        snapshot,
        found.named,
    )
    single = [claim for claim in fitting if kinds[claim.token.contract] is not Kind.ERC1155]
    _unstake(rpc, single, terms, snapshot, found)
    _open_accounts(rpc, [c for c in single if _of(terms, c).accounts], snapshot, found)
    rented = _rentals(rpc, [c for c in single if _of(terms, c).rentals is not Rentals.IGNORED], snapshot)
    return {claim: _answer(claim, found, rented.get(claim.token), _of(terms, claim)) for claim in asked}


def holders(
    rpc: Rpc, tokens: Iterable[Token], terms: Mapping[Address, Ownership], snapshot: Snapshot
) -> dict[Token, Address | None]:
    """Whose each token is in the end; None for nobody's, and for ERC-1155 ids, which have as many holders as units."""
    nobody = "0x" + 40 * "0"
    found = holdings(rpc, (Claim(token, nobody) for token in tokens), terms, snapshot)
    return {claim.token: holding.owner for claim, holding in found.items()}


def _settle(rpc: Rpc, questions: Sequence[Question], snapshot: Snapshot, named: dict[Claim, Address | None]) -> None:
    answers = ask(rpc, [question.call for question in questions], snapshot)
    for question, answer in zip(questions, answers, strict=True):
        named.update(zip(question.claims, question.read(answer), strict=True))


def _unstake(
    rpc: Rpc, claims: Sequence[Claim], terms: Mapping[Address, Ownership], snapshot: Snapshot, found: _Found
) -> None:
    staked = [
        (claim, where)
        for claim in claims
        for where in _of(terms, claim).staking
        if where.contract == found.named.get(claim)
    ]
    stakers: dict[Claim, Address | None] = {}
    _settle(rpc, [staking.question(claim, where) for claim, where in staked], snapshot, stakers)
    for claim, where in staked:
        found.move(claim, stakers[claim], f"staked in {where.contract}")


def _open_accounts(rpc: Rpc, claims: Sequence[Claim], snapshot: Snapshot, found: _Found) -> None:
    """Where an owner is an account, go on to the owner of the token that it is bound to."""
    for _ in range(MAX_DEPTH):
        closed = [claim for claim in claims if found.named.get(claim) not in (None, claim.wallet)]
        owners = list(dict.fromkeys(owner for claim in closed if (owner := found.named[claim])))
        bound = {
            owner: token
            for owner, code in zip(owners, codes(rpc, owners, snapshot), strict=True)
            if (token := accounts.bound_token(owner, code, snapshot.chain_id))
        }
        if not bound:
            return
        inside = _account_owners(rpc, bound, snapshot)
        for claim in closed:
            account = found.named[claim]
            if account in inside:
                found.move(claim, inside[account], f"in the account {account}")


def _account_owners(rpc: Rpc, bound: Mapping[Address, Token], snapshot: Snapshot) -> dict[Address, Address | None]:
    """Account → the owner of its token, if the account names the same one."""
    said = [address_of(answer) for answer in ask(rpc, [(account, "owner()", []) for account in bound], snapshot)]
    claims = {account: Claim(token, account) for account, token in bound.items()}
    named: dict[Claim, Address | None] = {}
    _settle(rpc, list(erc721.questions(list(claims.values()))), snapshot, named)
    return {account: own if own == named[claims[account]] else None for account, own in zip(bound, said, strict=True)}


def _rentals(rpc: Rpc, claims: Sequence[Claim], snapshot: Snapshot) -> dict[Token, Rental | None]:
    tokens = list(dict.fromkeys(claim.token for claim in claims))
    answers = ask(rpc, [call for token in tokens for call in rentals.calls(token)], snapshot)
    return {
        token: rentals.read(answers[2 * at], answers[2 * at + 1], snapshot.timestamp) for at, token in enumerate(tokens)
    }


def _answer(claim: Claim, found: _Found, rental: Rental | None, terms: Ownership) -> Holding:
    owner = found.named.get(claim)
    holding = Holding(owner == claim.wallet, owner, found.through.get(claim, ()), rental)
    if rental is None:
        return holding
    if terms.rentals is Rentals.RENTER_TOO:
        return replace(holding, holds=holding.holds or rental.user == claim.wallet)
    return replace(holding, denied=f"it is rented out to {rental.user} until {rental.expires}")


def _of(terms: Mapping[Address, Ownership], claim: Claim) -> Ownership:
    return terms.get(claim.token.contract) or Ownership()
