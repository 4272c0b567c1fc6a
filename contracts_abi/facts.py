"""All that a policy wants to know of tokens and their owner, read at one block: the same for both sides who judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from contracts_abi.licences import licence_signals, metadata_licences
from contracts_abi.membership import read_standing
from contracts_abi.model import Snapshot, Token
from contracts_abi.rpc import Rpc
from protocol.policy import Facts, Held, Policy


def read_facts(
    rpc: Rpc,
    policy: Policy,
    tokens: Iterable[Token],
    wallets: Iterable[str],
    snapshot: Snapshot,
    held: Mapping[Token, Held] | None = None,
) -> dict[Token, Facts]:
    """What ``policy`` needs to judge ``tokens`` of whoever has ``wallets``, and nothing that it does not ask for.

    ``held`` is how long their present owner has had them, as far as somebody has read it from the logs.
    """
    asked = sorted(set(tokens))
    with_metadata = {rule.contract for rule in policy.collections if rule.metadata}
    signals = licence_signals(rpc, asked, snapshot)
    metadata = metadata_licences(rpc, [token for token in asked if token.contract in with_metadata], snapshot)
    standing = read_standing(rpc, policy.membership, wallets, snapshot) if policy.membership else None
    return {
        token: Facts(
            signals=signals[token],
            metadata_licence=metadata.get(token),
            held=(held or {}).get(token),
            standing=standing,
        )
        for token in asked
    }
