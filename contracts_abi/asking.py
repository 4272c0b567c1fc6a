"""How a question is put to contracts: encoded, asked at one pinned block (EIP-1898), and read with distrust.

A contract that reverts, burns its gas or answers garbage gives no answer and spoils no other's. A node that does not
answer raises Unreachable, a block that is no longer in the chain raises Conflict: neither ever passes for an answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address

from contracts_abi.model import Snapshot, Token
from contracts_abi.rpc import CallReverted, Rpc
from protocol.errors import BadInput, Conflict, Unreachable

CALL_GAS = 5_000_000
"""A thousand calls to a contract that loops still end."""

WORD = 32
"""Bytes of an ABI word."""

Call = tuple[str, str, Sequence[object]]
"""Contract, signature and arguments."""


def on_this_chain(tokens: Iterable[Token], snapshot: Snapshot) -> list[Token]:
    """Each token once; raises BadInput for one of another chain."""
    asked = list(dict.fromkeys(tokens))
    for token in asked:
        if token.chain_id != snapshot.chain_id:
            raise BadInput(f"{token} is not on chain {snapshot.chain_id}.", "Ask that token's own chain.")
    return asked


def ask(rpc: Rpc, calls: Sequence[Call], snapshot: Snapshot, gas: int | None = CALL_GAS) -> list[Any]:
    """The contracts' answers in the order of ``calls``, all at ``snapshot``."""
    limit = {"gas": hex(gas)} if gas else {}
    asked = [({"to": to, "data": calldata(signature, arguments), **limit},) for to, signature, arguments in calls]
    return _pinned(rpc, "eth_call", asked, snapshot)


def calls_at(rpc: Rpc, transactions: Sequence[Mapping[str, str]], snapshot: Snapshot) -> list[Any]:
    """What ``eth_call`` answers to each transaction at ``snapshot``, CallReverted where a contract gives no answer."""
    return _pinned(rpc, "eth_call", [(transaction,) for transaction in transactions], snapshot)


def codes(rpc: Rpc, addresses: Sequence[str], snapshot: Snapshot) -> list[bytes]:
    """The code at each address, empty where there is none."""
    answers = _pinned(rpc, "eth_getCode", [(address,) for address in addresses], snapshot)
    return [as_bytes(answer) or b"" for answer in answers]


def is_canonical(rpc: Rpc, snapshot: Snapshot) -> bool:
    """Whether the snapshot's block still has its place in the chain; raises Unreachable when nobody says.

    A node that knows no block of that number lags behind, and does not say.
    """
    block = rpc.call("eth_getBlockByNumber", hex(snapshot.number), False)
    if not isinstance(block, dict) or "hash" not in block:
        raise Unreachable(
            f"The chain at {rpc.host} does not know block {snapshot.number} yet.",
            "Wait until the node has caught up, or configure another RPC URL.",
        )
    return bool(block["hash"] == snapshot.hash)


def require_canonical(rpc: Rpc, snapshot: Snapshot) -> None:
    """Raises Conflict when the snapshot's block was forked away."""
    if not is_canonical(rpc, snapshot):
        raise Conflict(
            f"Block {snapshot.number} ({snapshot.hash}) is no longer in the chain at {rpc.host}.",
            "Take a new finalized snapshot and ask again.",
        )


def decode(kind: str, answer: object) -> Any:
    """The one value that an answer holds, None when it holds none of this ABI type."""
    data = as_bytes(answer)
    if data is None:
        return None
    try:
        [value] = abi_decode([kind], data)
    except (DecodingError, OverflowError, ValueError):
        return None
    return value


def address_of(answer: object) -> str | None:
    """The address that an answer holds, checksummed; None for none, and for the zero address."""
    return address_in(as_bytes(answer) or b"", 0)


def address_in(data: bytes, word: int) -> str | None:
    """The address in one of an answer's words, counted from 0; None for no address, and for the zero address."""
    found = data[word * WORD : (word + 1) * WORD]
    if len(found) != WORD or any(found[:12]):
        return None
    return _checksummed(found[12:])


def as_bytes(answer: object) -> bytes | None:
    """What a node sent as 0x-prefixed hex; None for anything else."""
    if isinstance(answer, CallReverted) or not isinstance(answer, str):
        return None
    try:
        return bytes.fromhex(answer.removeprefix("0x"))
    except ValueError:
        return None


def calldata(signature: str, arguments: Sequence[object]) -> str:
    """Selector and ABI-encoded arguments, 0x-prefixed."""
    selector, types = _function(signature)
    return "0x" + (selector + encode(types, arguments)).hex()


@cache
def _function(signature: str) -> tuple[bytes, tuple[str, ...]]:
    types = tuple(kind for kind in signature[signature.index("(") + 1 : -1].split(",") if kind)
    return function_signature_to_4byte_selector(signature), types


@lru_cache(maxsize=20_000)
def _checksummed(address: bytes) -> str | None:
    """None for the zero address, which is how contracts say nobody."""
    return str(to_checksum_address(address)) if any(address) else None


def _pinned(rpc: Rpc, method: str, asked: Sequence[tuple[object, ...]], snapshot: Snapshot) -> list[Any]:
    block = {"blockHash": snapshot.hash, "requireCanonical": True}
    try:
        return rpc.batch([(method, (*arguments, block)) for arguments in asked])
    except Unreachable:
        # Every node words the refusal of a reorganised block differently: ask which block has its place now.
        require_canonical(rpc, snapshot)
        raise
