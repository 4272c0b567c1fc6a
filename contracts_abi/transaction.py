"""A transaction before anyone signed it, and how one wallet sends it. A Safe's owners get it as a file instead."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from eth_account.signers.local import LocalAccount
from eth_utils.address import to_canonical_address

from contracts_abi.model import Address
from contracts_abi.rpc import CallReverted, Rpc
from protocol.canonical import Document
from protocol.errors import Conflict, Unreachable

RECEIPT_SECONDS = 300.0
ATTEMPTS = 4
_HEADROOM = 1.25
Answer = TypeVar("Answer")


class Transaction(Document):
    """A call that changes something, with no value."""

    to: Address
    data: str
    what: str
    """In words, for whoever signs."""


def send(rpc: Rpc, wallet: LocalAccount, transaction: Transaction, sleep: Callable[[float], None] = time.sleep) -> str:
    """Sign, send and wait until it is in a block; its hash. A node that does not answer is asked again.

    The nonce is fixed before, so that what is sent twice counts once.

    Raises:
        Conflict: it would revert, or did.
        Unreachable: the node does not answer, after ``ATTEMPTS``, or it is in no block after ``RECEIPT_SECONDS``.
    """
    raw, named = _again(lambda: _signed(rpc, wallet, transaction), sleep)
    _again(lambda: _sent(rpc, raw, named), sleep)
    deadline = time.monotonic() + RECEIPT_SECONDS
    while (receipt := _again(lambda: rpc.call("eth_getTransactionReceipt", named), sleep)) is None:
        if time.monotonic() > deadline:
            raise Unreachable(f"Transaction {named} is in no block yet.", "Look for it before you send another one.")
        sleep(1.0)
    if int(receipt["status"], 16) != 1:
        raise Conflict(f"The transaction to {transaction.what} reverted: {named}.", "Look at it in a block explorer.")
    return named


def safe_batch(chain_id: int, transactions: Sequence[Transaction]) -> dict[str, Any]:
    """What Safe's Transaction Builder imports (format 1.0): all of them as one act of the Safe."""
    return {
        "version": "1.0",
        "chainId": str(chain_id),
        "meta": {"name": "Coterie", "description": "; ".join(one.what for one in transactions)},
        "transactions": [{"to": one.to, "value": "0", "data": one.data} for one in transactions],
    }


def _signed(rpc: Rpc, wallet: LocalAccount, transaction: Transaction) -> tuple[str, str]:
    """The signed transaction in hex and its hash."""
    call = {"from": wallet.address, "to": transaction.to, "data": transaction.data}
    chain_id, nonce, price, gas = rpc.batch(
        [
            ("eth_chainId", ()),
            ("eth_getTransactionCount", (wallet.address, "pending")),
            ("eth_gasPrice", ()),
            ("eth_estimateGas", (call,)),
        ]
    )
    if isinstance(gas, CallReverted):
        raise Conflict(f"The chain refuses to {transaction.what}: {gas.message[:200]}.", "Check that this wallet may.")
    fee = int(price, 16)
    signed = wallet.sign_transaction(
        {
            "chainId": int(chain_id, 16),
            "nonce": int(nonce, 16),
            "to": to_canonical_address(transaction.to),
            "data": bytes.fromhex(transaction.data.removeprefix("0x")),
            "value": 0,
            "gas": int(int(gas, 16) * _HEADROOM),
            "maxFeePerGas": 2 * fee,
            "maxPriorityFeePerGas": min(fee, 10**9),
        }
    )
    return "0x" + bytes(signed.raw_transaction).hex(), "0x" + bytes(signed.hash).hex()


def _sent(rpc: Rpc, raw: str, named: str) -> None:
    try:
        rpc.call("eth_sendRawTransaction", raw)
    except Unreachable:
        if rpc.call("eth_getTransactionByHash", named) is None:  # an earlier attempt may have arrived
            raise


def _again(ask: Callable[[], Answer], sleep: Callable[[float], None]) -> Answer:
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask()
        except Unreachable:
            sleep(2.0**attempt)
    return ask()
