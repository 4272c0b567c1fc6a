"""ERC-6551: an account that belongs to a token, and so to whoever owns that token.

An account is believed by its address and code, never by what it says alone. The canonical registry puts accounts at
CREATE2 addresses, over code that ends in the token that the account is bound to; both are computed again here.
"""

from __future__ import annotations

from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak

from contracts_abi.model import Address, Token

REGISTRY: Address = "0x000000006551c19487814612e58FE06813775758"
"""At the same address on every chain (ERC-6551, "Registry")."""

# ERC-1167's proxy, before and after the implementation; then salt, chain, contract and id, a word each.
_BEFORE, _AFTER = bytes.fromhex("363d3d373d3d3d363d73"), bytes.fromhex("5af43d82803e903d91602b57fd5bf3")
_CREATION = bytes.fromhex("3d60ad80600a3d3981f3")
_AT_AFTER = len(_BEFORE) + 20
_AT_SALT = _AT_AFTER + len(_AFTER)
_LENGTH = _AT_SALT + 4 * 32


def bound_token(account: Address, code: bytes, chain_id: int) -> Token | None:
    """The token that ``account`` is bound to; None where it is no account of the registry's, or of another chain's."""
    if len(code) != _LENGTH or not code.startswith(_BEFORE) or code[_AT_AFTER:_AT_SALT] != _AFTER:
        return None
    salt, chain, contract, token_id = (code[at : at + 32] for at in range(_AT_SALT, _LENGTH, 32))
    place = keccak(b"\xff" + to_canonical_address(REGISTRY) + salt + keccak(_CREATION + code))[12:]
    if to_checksum_address(place) != account or int.from_bytes(chain, "big") != chain_id or any(contract[:12]):
        return None
    return Token(
        chain_id=chain_id,
        contract=to_checksum_address(contract[12:]),
        token_id=int.from_bytes(token_id, "big"),
    )
