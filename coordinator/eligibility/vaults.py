"""Tokens that a wallet may contribute for a vault: the vault owns them, the wallet may act for it.

Two decorators around the questions of ``verdicts``: what is asked of a wallet is asked of its vaults too.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from contracts_abi.delegation import delegated, vaults_of
from contracts_abi.model import Address, Snapshot
from contracts_abi.ownership.holding import holders
from contracts_abi.rpc import Rpc
from protocol.grant import Grant
from protocol.policy import Policy, Verdict, within_cap

More = ParamSpec("More")
Found = Callable[Concatenate[Rpc, Policy, Address, Snapshot, More], list[Verdict]]
Rechecked = Callable[Concatenate[Rpc, Policy, Grant, Snapshot, More], list[Verdict]]


def with_vaults(ask: Found[More]) -> Found[More]:
    """Also what the wallet's vaults own and delegated."""

    @wraps(ask)
    def found(
        rpc: Rpc, policy: Policy, wallet: Address, snapshot: Snapshot, /, *more: More.args, **named: More.kwargs
    ) -> list[Verdict]:
        verdicts = {verdict.token: verdict for verdict in ask(rpc, policy, wallet, snapshot, *more, **named)}
        contracts = [rule.contract for rule in policy.collections]
        for vault in vaults_of(rpc, wallet, contracts, snapshot):
            theirs = ask(rpc, policy, vault, snapshot, *more, **named)
            lent = delegated(rpc, {(verdict.token, wallet): vault for verdict in theirs}, snapshot)
            for verdict in theirs:
                if (verdict.token, wallet) in lent:
                    verdicts.setdefault(verdict.token, _of_vault(verdict, vault))
        return within_cap(policy, sorted(verdicts.values(), key=lambda verdict: verdict.token))

    return found


def with_vaults_rechecked(ask: Rechecked[More]) -> Rechecked[More]:
    """Also for granted tokens that a vault owns at that very block, and delegates."""

    @wraps(ask)
    def rechecked(
        rpc: Rpc, policy: Policy, grant: Grant, snapshot: Snapshot, /, *more: More.args, **named: More.kwargs
    ) -> list[Verdict]:
        verdicts = ask(rpc, policy, grant, snapshot, *more, **named)
        denied = [verdict.token for verdict in verdicts if not verdict.allow]
        owned = holders(rpc, denied, policy.ownership, snapshot)
        lent = delegated(rpc, {(token, grant.member): owner for token, owner in owned.items()}, snapshot)
        theirs: dict[object, Verdict] = {}
        for vault in {owner for token, owner in owned.items() if owner and (token, grant.member) in lent}:
            tokens = tuple(token for token, _ in lent if owned[token] == vault)
            as_theirs = grant.model_copy(update={"member": vault, "tokens": tokens})
            found = ask(rpc, policy, as_theirs, snapshot, *more, **named)
            theirs |= {verdict.token: _of_vault(verdict, vault) for verdict in found}
        return within_cap(policy, [theirs.get(verdict.token, verdict) for verdict in verdicts])

    return rechecked


def _of_vault(verdict: Verdict, vault: Address) -> Verdict:
    return verdict.model_copy(update={"reason": f"{verdict.reason} It is in the vault {vault}."})
