"""ERC-4907: a token may have a user beside its owner, until a time."""

from __future__ import annotations

from dataclasses import dataclass

from contracts_abi.asking import Call, address_of, decode
from contracts_abi.model import Address, Token


@dataclass(frozen=True)
class Rental:
    """Who uses a token, and until when (Unix seconds)."""

    user: Address
    expires: int


def calls(token: Token) -> tuple[Call, Call]:
    """What is asked of a rental."""
    return (
        (token.contract, "userOf(uint256)", [token.token_id]),
        (token.contract, "userExpires(uint256)", [token.token_id]),
    )


def read(user: object, expires: object, now: int) -> Rental | None:
    """The rental in force at ``now``, the snapshot's time; None where there is none, or the contract knows none."""
    address, until = address_of(user), decode("uint256", expires)
    return Rental(address, until) if address and until is not None and until >= now else None
