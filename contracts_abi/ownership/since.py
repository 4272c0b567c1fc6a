"""Since when tokens have been where they are, from the logs before a snapshot, the newest read first.

Logs are asked since when, never who: whoever holds a token by the state must be the receiver of its last transfer, or
nothing is known. Nothing known is None, which a policy that asks for a holding time has to deny.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eth_abi.abi import decode as abi_decode
from eth_abi.exceptions import DecodingError

from contracts_abi.asking import ask, decode, on_this_chain, require_canonical
from contracts_abi.logs import Log, Pace, Patience, Topics, event_topic, scan, word
from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.ownership.discovery import TRANSFER, TRANSFER_BATCH, TRANSFER_SINGLE
from contracts_abi.ownership.kinds import RESOLVERS, kinds_of
from contracts_abi.ownership.question import Claim
from contracts_abi.ownership.terms import Kind, Ownership
from contracts_abi.rpc import Rpc
from protocol.errors import Unreachable

ASSIGN = event_topic("Assign(address,uint256)")
PUNK_TRANSFER = event_topic("PunkTransfer(address,address,uint256)")
PUNK_BOUGHT = event_topic("PunkBought(uint256,uint256,address,address)")
IDS_A_QUESTION = 100
_ANYONE: Address = "0x" + 40 * "0"

Move = tuple[int, str, str]
"""Token id, from and to (lower case) of one event."""


@dataclass(frozen=True)
class HeldSince:
    """The block in which the present owner got a token, and that block's time (Unix seconds)."""

    block: int
    timestamp: int
    exact: bool = True
    """False: it was the owner's at this block already, and nobody looked further back."""


@dataclass(frozen=True)
class _Reading:
    """One contract's logs, backwards from a snapshot."""

    rpc: Rpc
    contract: Address
    snapshot: Snapshot
    first: int
    patience: Patience
    pace: Pace

    def newest_first(self, wanted: Sequence[Topics]) -> Iterator[Log]:
        for stretch in scan(
            self.rpc,
            self.contract,
            wanted,
            self.first,
            self.snapshot.number,
            backwards=True,
            pace=self.pace,
            patience=self.patience,
        ):
            yield from reversed(stretch.logs)


def held_since(
    rpc: Rpc,
    tokens: Iterable[Token],
    snapshot: Snapshot,
    *,
    wallet: Address | None = None,
    terms: Mapping[Address, Ownership] | None = None,
    not_before: int = 0,
    patience_s: float = float("inf"),
) -> dict[Token, HeldSince | None]:
    """Since when each token's owner at ``snapshot`` has had it without a break; None where that is not known.

    A staked token counts from its staking, one in an account from when it came there. An ERC-1155 id has no one
    owner: it counts for ``wallet``, from when that had a first unit, and is None without one. Blocks before
    ``not_before`` are not looked at (``block_at`` finds the one of a time): whoever has had a token since before then
    is told so, inexactly.

    Raises:
        BadInput: a token is of another chain.
        Conflict: the snapshot is no longer in the chain.
        Unreachable: the node does not answer, or a collection's logs were not read to their end in ``patience_s``.
    """
    asked, told = on_this_chain(tokens, snapshot), terms or {}
    blocks: dict[Token, int] = {}
    earlier: set[Token] = set()
    for contract, kind in kinds_of(rpc, (token.contract for token in asked), told, snapshot).items():
        deployed = told.get(contract, Ownership()).since
        reading = _Reading(rpc, contract, snapshot, max(deployed, not_before), Patience(patience_s), Pace())
        mine = [token for token in asked if token.contract == contract and token.standard == kind.standard]
        found, unsettled = _of_kind(reading, kind, mine, wallet)
        blocks |= found
        if not_before > deployed:
            earlier |= unsettled
    times = _times(rpc, {*blocks.values(), *({not_before} if earlier else ())})
    require_canonical(rpc, snapshot)
    known = {token: HeldSince(block, times[block]) for token, block in blocks.items()}
    known |= {token: HeldSince(not_before, times[not_before], exact=False) for token in earlier}
    return {token: known.get(token) for token in asked}


def block_at(rpc: Rpc, timestamp: int, snapshot: Snapshot) -> int:
    """The first block at ``timestamp`` (Unix seconds) or later, at most the snapshot's; some 25 questions."""
    low, high = 0, snapshot.number
    while low < high:
        middle = (low + high) // 2
        if _times(rpc, {middle})[middle] < timestamp:
            low = middle + 1
        else:
            high = middle
    return low


def _of_kind(
    reading: _Reading, kind: Kind, tokens: Sequence[Token], wallet: Address | None
) -> tuple[dict[Token, int], set[Token]]:
    """Token → block, and the tokens that were the owner's in all that was read."""
    if kind is Kind.ERC1155:
        return _units(reading, tokens, wallet) if wallet else ({}, set())
    found: dict[Token, int] = {}
    unsettled: set[Token] = set()
    owned = _owners(reading, tokens, kind)
    for at in range(0, len(owned), IDS_A_QUESTION):
        part = dict(list(owned.items())[at : at + IDS_A_QUESTION])
        if kind is Kind.CRYPTOPUNKS:
            moves = _moves(reading.newest_first(_punk_topics(part)), _punk_move)
        else:
            moves = _moves(reading.newest_first(_transfer_topics(part)), _transfer)
        settled, rest = _last_arrivals(moves, part)
        found |= settled
        unsettled |= rest
    return found, unsettled


def _owners(reading: _Reading, tokens: Sequence[Token], kind: Kind) -> dict[Token, str]:
    """Lower case, by the state; tokens of nobody are left out."""
    questions = list(RESOLVERS[kind]([Claim(token, _ANYONE) for token in tokens]))
    answers = ask(reading.rpc, [question.call for question in questions], reading.snapshot)
    named = {
        claim.token: owner
        for question, answer in zip(questions, answers, strict=True)
        for claim, owner in zip(question.claims, question.read(answer), strict=True)
    }
    return {token: owner.lower() for token, owner in named.items() if owner}


def _last_arrivals(
    moves: Iterable[tuple[int, Move]], owned: Mapping[Token, str]
) -> tuple[dict[Token, int], set[Token]]:
    """``moves`` (block, move), the newest first. A token whose last move was not to its owner is in neither part."""
    waiting = {token.token_id: token for token in owned}
    found: dict[Token, int] = {}
    for block, (token_id, sender, receiver) in moves:
        token = waiting.get(token_id)
        if token is None or (receiver == owned[token] and sender == receiver):
            continue  # not asked for, settled, or sent to oneself: that interrupts nothing
        del waiting[token_id]
        if receiver == owned[token]:
            found[token] = block
        if not waiting:
            break
    return found, set(waiting.values())


def _moves(logs: Iterator[Log], read: Callable[[Log], Move]) -> Iterator[tuple[int, Move]]:
    for one in logs:
        try:
            yield one.block, read(one)
        except (DecodingError, IndexError, OverflowError, ValueError):
            continue  # malformed: it says nothing of any token


def _transfer_topics(owned: Mapping[Token, str]) -> Sequence[Topics]:
    return ((TRANSFER, None, None, tuple(word(token.token_id) for token in owned)),)


def _transfer(one: Log) -> Move:
    return one.number(3), one.address(1), one.address(2)


def _punk_topics(owned: Mapping[Token, str]) -> Sequence[Topics]:
    owners = tuple(word(owner) for owner in dict.fromkeys(owned.values()))
    return (
        (PUNK_BOUGHT, tuple(word(token.token_id) for token in owned)),
        (PUNK_TRANSFER, None, owners),
        (PUNK_TRANSFER, owners),
        (ASSIGN, owners),
    )


def _punk_move(one: Log) -> Move:
    """An accepted bid names the zero address as its receiver: that is nobody's, so its time is nobody's to claim."""
    if one.topics[0] == PUNK_BOUGHT:
        return one.number(1), one.address(2), one.address(3)
    [index] = abi_decode(["uint256"], one.data)
    return (index, _ANYONE, one.address(1)) if one.topics[0] == ASSIGN else (index, one.address(1), one.address(2))


def _units(reading: _Reading, tokens: Sequence[Token], wallet: Address) -> tuple[dict[Token, int], set[Token]]:
    """Walk the wallet's balances back to where they were none."""
    calls = [(token.contract, "balanceOf(address,uint256)", [wallet, token.token_id]) for token in tokens]
    balances = [decode("uint256", answer) or 0 for answer in ask(reading.rpc, calls, reading.snapshot)]
    units = {token.token_id: balance for token, balance in zip(tokens, balances, strict=True) if balance}
    waiting = {token.token_id: token for token in tokens if token.token_id in units}
    found: dict[Token, int] = {}
    both = (TRANSFER_SINGLE, TRANSFER_BATCH)
    for one in reading.newest_first(((both, None, word(wallet)), (both, None, None, word(wallet)))):
        for token_id, moved in _units_in(one, wallet.lower()).items():
            if token_id not in waiting:
                continue
            units[token_id] -= moved
            if units[token_id] > 0:
                continue
            token = waiting.pop(token_id)
            if units[token_id] == 0:
                found[token] = one.block
        if not waiting:
            break
    return found, set(waiting.values())


def _units_in(one: Log, wallet: str) -> dict[int, int]:
    """Token id → units that this event brought the wallet, negative for what it took."""
    try:
        sign = (one.address(3) == wallet) - (one.address(2) == wallet)
        if one.topics[0] == TRANSFER_SINGLE:
            ids, values = ([value] for value in abi_decode(["uint256", "uint256"], one.data))
        else:
            ids, values = abi_decode(["uint256[]", "uint256[]"], one.data)
        moved: dict[int, int] = {}
        for token_id, value in zip(ids, values, strict=True):
            moved[token_id] = moved.get(token_id, 0) + sign * value
    except (DecodingError, IndexError, OverflowError, ValueError):
        return {}
    return moved


def _times(rpc: Rpc, numbers: Iterable[int]) -> dict[int, int]:
    listed = sorted(numbers)
    blocks = rpc.batch([("eth_getBlockByNumber", (hex(number), False)) for number in listed])
    try:
        return {number: int(block["timestamp"], 16) for number, block in zip(listed, blocks, strict=True)}
    except (KeyError, TypeError, ValueError) as error:
        raise Unreachable(
            f"The chain at {rpc.host} does not tell a block's time.", "Configure another RPC URL."
        ) from error
