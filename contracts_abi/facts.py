"""All that a policy wants to know of tokens and their owner, read at one block: the same for both sides who judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from contracts_abi.licences import licence_signals, metadata_licences
from contracts_abi.membership import read_standing
from contracts_abi.model import Address, Snapshot, Token
from contracts_abi.ownership.since import block_at, held_since
from contracts_abi.rpc import Rpc
from protocol.policy import Facts, Held, Policy
from protocol.policy.rules import DAY_SECONDS


def read_facts(
    rpc: Rpc, policy: Policy, tokens: Iterable[Token], wallets: Sequence[Address], snapshot: Snapshot
) -> dict[Token, Facts]:
    """What ``policy`` needs to judge ``tokens`` of whoever has ``wallets``, and nothing that it does not ask for.

    Units of an ERC-1155 id are held by one wallet: the first counts.
    """
    asked = sorted(set(tokens))
    with_metadata = {rule.contract for rule in policy.collections if rule.metadata}
    signals = licence_signals(rpc, asked, snapshot)
    metadata = metadata_licences(rpc, [token for token in asked if token.contract in with_metadata], snapshot)
    standing = read_standing(rpc, policy.membership, wallets, snapshot) if policy.membership else None
    held = _held(rpc, policy, asked, wallets, snapshot)
    return {
        token: Facts(
            signals=signals[token],
            metadata_licence=metadata.get(token),
            held=held.get(token),
            standing=standing,
        )
        for token in asked
    }


def _held(
    rpc: Rpc, policy: Policy, tokens: Sequence[Token], wallets: Sequence[Address], snapshot: Snapshot
) -> dict[Token, Held]:
    """How long their owner has had them, as far back as the policy asks; nothing where it does not."""
    days, blocks = policy.minimum_holding_days, policy.minimum_holding_blocks
    if not tokens or not (days or blocks):
        return {}
    # A block before the time in question, so that whoever had a token then has had it for all of that time.
    by_days = block_at(rpc, snapshot.timestamp - days * DAY_SECONDS, snapshot) - 1 if days else snapshot.number
    found = held_since(
        rpc,
        tokens,
        snapshot,
        wallet=next(iter(wallets), None),
        terms=policy.ownership,
        not_before=max(0, min(by_days, snapshot.number - blocks)),
    )
    return {
        token: Held(blocks=snapshot.number - since.block, seconds=max(0, snapshot.timestamp - since.timestamp))
        for token, since in found.items()
        if since is not None
    }
