"""What a wallet holds in the policy's collections: found by whoever can tell, confirmed on the chain.

Nothing that finds tokens is believed. An enumerable contract lists them; CryptoPunks are few enough to ask for all;
of the others the logs tell what ever came to the wallet, or an indexer does where a key is set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError

from contracts_abi.asking import address_of, ask, decode
from contracts_abi.logs import Log, Patience, Topics, event_topic, scan, word
from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.ownership import cryptopunks
from contracts_abi.ownership.checkpoints import Checkpoint, Checkpoints, NoCheckpoints
from contracts_abi.ownership.holding import Holding, holdings
from contracts_abi.ownership.indexer import Indexer
from contracts_abi.ownership.kinds import kinds_of
from contracts_abi.ownership.question import Claim
from contracts_abi.ownership.terms import Kind, Ownership, Rentals
from contracts_abi.readers import MAX_LISTED, tokens_of
from contracts_abi.rpc import Rpc
from protocol.errors import Unreachable

TRANSFER = event_topic("Transfer(address,address,uint256)")
TRANSFER_SINGLE = event_topic("TransferSingle(address,address,address,uint256,uint256)")
TRANSFER_BATCH = event_topic("TransferBatch(address,address,address,uint256[],uint256[])")
UPDATE_USER = event_topic("UpdateUser(uint256,address,uint64)")
PATIENCE_S = 20.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Sources:
    """What helps to find tokens, beside the chain's node."""

    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    indexer: Indexer | None = None
    patience_s: float = PATIENCE_S
    """How long the logs of one collection are read at most; the next look goes on from there."""


def held_tokens(
    rpc: Rpc, wallet: Address, terms: Mapping[Address, Ownership], snapshot: Snapshot, sources: Sources | None = None
) -> dict[Token, Holding]:
    """The tokens that ``wallet`` holds at ``snapshot`` in the collections of ``terms``, sorted.

    Tokens within ERC-6551 accounts are not found, only confirmed: a grant may name them.

    Raises:
        Conflict: the snapshot is no longer in the chain.
        Unreachable: the node does not answer, or the logs are not read to their end yet.
    """
    known = sources or Sources()
    kinds = kinds_of(rpc, terms, terms, snapshot)
    by_listing = {one: _listed(rpc, one, kind, wallet, snapshot) for one, kind in kinds.items()}
    rest = [one for one, ids in by_listing.items() if ids is None or _elsewhere(terms[one])]
    named = _indexed(known, wallet, [one for one in rest if not _elsewhere(terms[one])])
    claims = []
    for contract, kind in kinds.items():
        ids = set(by_listing[contract] or ())
        if contract in named:
            ids |= set(named[contract])
        elif contract in rest:
            ids |= received(rpc, contract, wallet, snapshot, terms[contract], known)
        claims += [Claim(_token(snapshot, contract, token_id, kind), wallet) for token_id in sorted(ids)]
    found = holdings(rpc, claims, terms, snapshot)
    return {claim.token: found[claim] for claim in sorted(claims, key=lambda one: one.token) if found[claim].holds}


def received(
    rpc: Rpc, contract: Address, wallet: Address, snapshot: Snapshot, terms: Ownership, sources: Sources
) -> set[int]:
    """Every token of an ERC-721 or ERC-1155 contract that was ever transferred to ``wallet``, or rented to it.

    Raises:
        Unreachable: the logs are not read to their end; how far they were is kept.
    """
    kept = sources.checkpoints.load(snapshot.chain_id, contract, wallet)
    if kept and not _still_there(rpc, kept, snapshot):
        kept = None
    ids = {int(one) for one in kept.token_ids} if kept else set()
    first = kept.through + 1 if kept else terms.since
    patience = Patience(sources.patience_s)
    for stretch in scan(rpc, contract, _to(wallet), first, snapshot.number, patience=patience):
        ids |= {token_id for one in stretch.logs for token_id in ids_in(one)}
        at_end = stretch.last == snapshot.number
        checkpoint = Checkpoint(
            through=stretch.last,
            hash=snapshot.hash if at_end else _hash_of(rpc, stretch.last),
            token_ids=tuple(str(token_id) for token_id in sorted(ids)),
        )
        sources.checkpoints.save(snapshot.chain_id, contract, wallet, checkpoint)
    return ids


def ids_in(one: Log) -> list[int]:
    """The token ids of a transfer's or a rental's log; none of a log that is malformed."""
    try:
        if one.topics[0] in (TRANSFER, UPDATE_USER):
            return [one.number(3 if one.topics[0] == TRANSFER else 1)]
        if one.topics[0] == TRANSFER_SINGLE:
            return [abi_decode(["uint256", "uint256"], one.data)[0]]
        return list(abi_decode(["uint256[]", "uint256[]"], one.data)[0])
    except (DecodingError, IndexError, OverflowError, ValueError):
        return []


def _to(wallet: Address) -> Sequence[Topics]:
    to = word(wallet)
    return ((TRANSFER, None, to), ((TRANSFER_SINGLE, TRANSFER_BATCH), None, None, to), (UPDATE_USER, None, to))


def _listed(rpc: Rpc, contract: Address, kind: Kind, wallet: Address, snapshot: Snapshot) -> set[int] | None:
    """The ids in the wallet as the contract itself lists them; None where it does not."""
    if kind is Kind.ERC1155:
        return None
    balance = decode("uint256", ask(rpc, [(contract, "balanceOf(address)", [wallet])], snapshot)[0])
    if not balance:
        return set() if balance == 0 else None
    if kind is Kind.CRYPTOPUNKS:
        calls = [cryptopunks.owner_call(contract, index) for index in range(cryptopunks.PUNKS)]
        return {index for index, answer in enumerate(ask(rpc, calls, snapshot)) if address_of(answer) == wallet}
    ids = {token.token_id for token in tokens_of(rpc, contract, wallet, snapshot)}
    return ids if len(ids) >= min(balance, MAX_LISTED) else None


def _elsewhere(terms: Ownership) -> bool:
    """Whether the wallet may hold what is not in it."""
    return bool(terms.staking) or terms.rentals is Rentals.RENTER_TOO


def _indexed(sources: Sources, wallet: Address, contracts: Sequence[Address]) -> Mapping[Address, Iterable[int]]:
    if sources.indexer is None or not contracts:
        return {}
    try:
        return sources.indexer.token_ids(wallet, contracts)
    except Unreachable as error:
        log.warning("the indexer does not help; the logs are read", reason=error.message)
        return {}


def _still_there(rpc: Rpc, kept: Checkpoint, snapshot: Snapshot) -> bool:
    return kept.through <= snapshot.number and _hash_of(rpc, kept.through) == kept.hash


def _hash_of(rpc: Rpc, number: int) -> str:
    block = rpc.call("eth_getBlockByNumber", hex(number), False)
    return str(block.get("hash", "")) if isinstance(block, dict) else ""


def _token(snapshot: Snapshot, contract: Address, token_id: int, kind: Kind) -> Token:
    return Token(chain_id=snapshot.chain_id, contract=contract, token_id=token_id, standard=kind.standard)
