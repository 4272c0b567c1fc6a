"""Vaults: cold wallets that let another wallet act for them, by delegate.xyz's registry (version 2).

The registry knows nothing of ownership: a delegation outlives the sale of the token. So it is always asked with the
token's owner at the same block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from eth_utils.address import to_checksum_address

from contracts_abi.asking import ask, decode
from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.ownership.holding import Holding, holdings
from contracts_abi.ownership.question import Claim
from contracts_abi.ownership.terms import Ownership
from contracts_abi.rpc import Rpc

REGISTRY = "0x00000000000000447e69651d841bD8D104Bed493"
"""The same on every chain that has one."""
RIGHTS = b"coterie".ljust(32, b"\0")
"""A vault may delegate this alone instead of everything; a delegation without named rights covers it."""
MAX_VAULTS = 50
"""Vaults that own something there and are looked into: anybody may delegate to anybody, unasked."""

_ALL, _CONTRACT, _ERC721 = 1, 2, 3
_DELEGATIONS = "(uint8,address,address,bytes32,address,uint256,uint256)[]"
"""Type, to, from, rights, contract, token id, amount."""


def vaults_of(rpc: Rpc, wallet: Address, contracts: Collection[Address], snapshot: Snapshot) -> list[Address]:
    """Whoever delegated to ``wallet`` and owns something in one of ``contracts``, in the registry's order.

    To find them only: what each of them delegated is for ``delegated`` to say.
    """
    [answer] = ask(rpc, [(REGISTRY, "getIncomingDelegations(address)", [wallet])], snapshot, gas=None)
    asked = {contract.lower() for contract in contracts}
    found: dict[Address, None] = dict.fromkeys(
        to_checksum_address(vault)
        for kind, _, vault, rights, contract, _, _ in decode(_DELEGATIONS, answer) or ()
        if rights in (bytes(32), RIGHTS) and (kind == _ALL or (kind in (_CONTRACT, _ERC721) and contract in asked))
    )
    calls = [(contract, "balanceOf(address)", [vault]) for vault in found for contract in contracts]
    balances = [decode("uint256", one) or 0 for one in ask(rpc, calls, snapshot)]
    own = {str(call[2][0]) for call, balance in zip(calls, balances, strict=True) if balance}
    return [vault for vault in found if vault in own][:MAX_VAULTS]


def delegated(
    rpc: Rpc, owned: Mapping[tuple[Token, Address], Address | None], snapshot: Snapshot
) -> frozenset[tuple[Token, Address]]:
    """Of (token, wallet) → the token's owner at ``snapshot``: those whose owner lets the wallet act for the token."""
    asked = [(token, wallet, owner) for (token, wallet), owner in owned.items() if owner and owner != wallet]
    signature = "checkDelegateForERC721(address,address,address,uint256,bytes32)"
    calls = [
        (REGISTRY, signature, [wallet, owner, token.contract, token.token_id, RIGHTS]) for token, wallet, owner in asked
    ]
    answers = ask(rpc, calls, snapshot)
    return frozenset(
        (token, wallet)
        for (token, wallet, _), answer in zip(asked, answers, strict=True)
        if decode("bool", answer) is True
    )


def held_or_lent(
    rpc: Rpc, claims: Iterable[Claim], terms: Mapping[Address, Ownership], snapshot: Snapshot
) -> dict[Claim, Holding]:
    """As ``holdings``, and what a vault owns and delegated to the claimant counts as held."""
    found = holdings(rpc, claims, terms, snapshot)
    owned = {(claim.token, claim.wallet): one.owner for claim, one in found.items() if not one.holds}
    lent = delegated(rpc, owned, snapshot)
    return {
        claim: replace(one, holds=True, through=(*one.through, f"in the vault {one.owner}"))
        if (claim.token, claim.wallet) in lent
        else one
        for claim, one in found.items()
    }
